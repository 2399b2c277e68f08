"""Photographs on their way to the network: decoded once, then kept as uint8 where batches are made.

Images in memory are uint8 `[n, 3, h, w]`; batches are float32 in [0, 1]. ImageNet normalisation
happens inside the network only.
"""

import hashlib
import struct
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, Shaped, UInt8
from PIL import Image
from torch import Tensor

from rap import log
from rap.camera import Camera
from rap.data import image_cache
from rap.scene import DataError, Frame

# What Pillow raises for files that are missing, truncated, broken or absurdly large.
_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
# The largest factor by which Pillow may average whole pixels before it filters.
_REDUCING_GAP = 3.0

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def decode(
    frames: Sequence[Frame], camera: Camera, num_workers: int = 4, cache_dir: Path | None = None
) -> UInt8[Tensor, "n 3 h w"]:
    """All images in host memory, resized (antialiased) where they do not have the camera's size.

    `num_workers` threads decode; 0 decodes in the calling thread. With `cache_dir` the result is
    kept there and reused as long as the files' bytes stay the same. Raises DataError naming the
    first file that cannot be decoded or whose size differs from the first one's.
    """
    shape = (len(frames), 3, camera.height, camera.width)
    entry = None
    if cache_dir is not None:
        digests = _for_each(_digest, frames, num_workers, "read images")
        entry = image_cache.entry(cache_dir, digests, camera.width, camera.height)
        cached = image_cache.load(entry, shape)
        if cached is not None:
            return cached
    images = torch.empty(shape, dtype=torch.uint8)
    if frames:
        with _open(frames[0]) as first:
            read = partial(_read, camera=camera, first=frames[0], size=first.size)

        def fill(index: int) -> None:
            images[index] = torch.from_numpy(read(frames[index])).permute(2, 0, 1)

        _for_each(fill, range(len(frames)), num_workers, "decode images")
    if entry is not None:
        image_cache.store(entry, images)
    return images


def decode_batches(
    frames: Sequence[Frame],
    camera: Camera,
    batch_size: int,
    num_workers: int = 4,
    pin_memory: bool = False,
) -> Generator[UInt8[Tensor, "b 3 h w"], None, None]:
    """What `decode` returns, in order and in batches, while threads decode the next two.

    Each batch has memory of its own, page-locked with `pin_memory`. Raises DataError as `decode`
    does, once the batch is due that holds the image.
    """
    if not frames:
        return
    with _open(frames[0]) as first:
        read = partial(_read, camera=camera, first=frames[0], size=first.size)

    def places() -> Iterator[tuple[Tensor, int, Frame]]:
        for start in range(0, len(frames), batch_size):
            chunk = frames[start : start + batch_size]
            shape = (len(chunk), 3, camera.height, camera.width)
            batch = torch.empty(shape, dtype=torch.uint8, pin_memory=pin_memory)
            for slot, frame in enumerate(chunk):
                yield batch, slot, frame

    def fill(place: tuple[Tensor, int, Frame]) -> Tensor | None:
        batch, slot, frame = place
        batch[slot] = torch.from_numpy(read(frame)).permute(2, 0, 1)
        return batch if slot + 1 == len(batch) else None

    ahead = 2 * batch_size + num_workers
    with closing(ordered(fill, places(), num_workers, ahead)) as filled:
        # In order: when the last image of a batch is there, all of them are.
        yield from (batch for batch in filled if batch is not None)


def check_decodable(frame: Frame) -> None:
    """Raise DataError, naming the file, for an image whose pixels cannot be read."""
    with _open(frame) as image:
        _decoded(image, frame)


def _open(frame: Frame) -> Image.Image:
    """The image with its header read; raises DataError where there is none."""
    if not isinstance(frame.image, Path):
        return Image.fromarray(frame.image)
    try:
        return Image.open(frame.image)
    except _UNREADABLE as error:
        raise DataError(f"{frame.image}: not a readable image: {error}") from error


def _read(
    frame: Frame, camera: Camera, first: Frame, size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels of a frame whose file must have the first frame's size, at the camera's size."""
    with _open(frame) as image:
        if image.size != size:
            raise DataError(
                f"{_where(frame)}: {image.width}x{image.height} pixels, but {_where(first)} has "
                f"{size[0]}x{size[1]}; all images of a scene must have one size"
            )
        rgb = _decoded(image, frame)
    target = (camera.width, camera.height)
    if rgb.size != target:
        rgb = rgb.resize(target, Image.Resampling.BILINEAR, reducing_gap=_REDUCING_GAP)
    return np.array(rgb)


def _decoded(image: Image.Image, frame: Frame) -> Image.Image:
    try:
        return image.convert("RGB")
    except _UNREADABLE as error:
        raise DataError(f"{_where(frame)}: cannot be decoded: {error}") from error


def _digest(frame: Frame) -> bytes:
    """Hash of what an image is decoded from."""
    if not isinstance(frame.image, Path):
        return hashlib.sha256(f"{frame.image.shape}".encode() + frame.image.tobytes()).digest()
    try:
        return hashlib.sha256(frame.image.read_bytes()).digest()
    except OSError as error:
        raise DataError(f"{frame.image}: cannot be read: {error}") from error


def _where(frame: Frame) -> str:
    return str(frame.image) if isinstance(frame.image, Path) else f"frame {frame.name}"


def _for_each(
    work: Callable[[_Item], _Result], items: Sequence[_Item], num_workers: int, doing: str
) -> list[_Result]:
    """Results in order, with progress; the first error ends the rest."""
    results = []
    with (
        log.progress(doing, len(items), "images") as tick,
        closing(ordered(work, items, num_workers, ahead=len(items))) as done,
    ):
        for result in done:
            results.append(result)
            tick()
    return results


def ordered(
    work: Callable[[_Item], _Result], items: Iterable[_Item], num_workers: int, ahead: int
) -> Generator[_Result, None, None]:
    """`map(work, items)` by threads that run at most `ahead` items before the consumer."""
    if num_workers < 0:
        raise ValueError(f"num_workers = {num_workers} must be 0 (calling thread) or more threads")
    if num_workers == 0:
        yield from map(work, items)
        return
    executor = ThreadPoolExecutor(num_workers)
    try:
        left = iter(items)
        pending = deque(executor.submit(work, item) for item in islice(left, ahead))
        while pending:
            yield pending.popleft().result()
            pending.extend(executor.submit(work, item) for item in islice(left, 1))
    finally:
        executor.shutdown(cancel_futures=True)


class ImageBank:
    """Posed images as uint8: on the device while they fit a budget, else in host memory.

    The bank owns its memory: it copies what it is given. `batch` of a resident bank runs on the
    device alone, without waiting for the host, if its index is there. A bank in host memory gathers
    there, through page-locked memory if `pin_memory` is set and the device is a GPU.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "n 3 h w"],
        poses: Float32[Tensor, "n 4 4"],
        device: torch.device,
        budget_bytes: int,
        pin_memory: bool,
    ) -> None:
        if len(images) != len(poses):
            raise ValueError(f"{len(images)} images but {len(poses)} poses; each needs one")
        self.device = device
        self.resident = images.nbytes <= budget_bytes
        self.poses = poses.to(device, copy=True)
        self._pin = pin_memory and device.type == "cuda" and not self.resident
        home = device if self.resident else torch.device("cpu")
        self.images = torch.empty(
            images.shape, dtype=torch.uint8, device=home, pin_memory=self._pin
        )
        self.images.copy_(images)

    @property
    def num(self) -> int:
        """Images in the bank."""
        return len(self.images)

    def batch(self, index: Int64[Tensor, "b"]) -> Float32[Tensor, "b 3 h w"]:
        """Images by index, on the device, in [0, 1].

        An index in host memory is checked (IndexError); one on a GPU is not, which would make the
        host wait.
        """
        if self.resident:
            index = self._checked(index).to(self.device, non_blocking=True)
            return _unit(self.images.index_select(0, index))
        return self._to_device(self._gather(index))

    def batches(
        self, indices: Iterable[Int64[Tensor, "b"]], num_workers: int
    ) -> Iterator[Float32[Tensor, "b 3 h w"]]:
        """`batch` of each index in turn; threads gather ahead of the consumer in host memory.

        Nothing may be written to the bank until the iterator ends.
        """
        if self.resident:
            yield from map(self.batch, indices)
            return
        ahead = num_workers + 1
        with closing(ordered(self._gather, indices, num_workers, ahead)) as gathered:
            yield from map(self._to_device, gathered)

    def write(
        self,
        index: Int64[Tensor, "b"],
        images: UInt8[Tensor, "b 3 h w"],
        poses: Float32[Tensor, "b 4 4"],
        where: Bool[Tensor, "b"] | None = None,
    ) -> None:
        """Replace images and their poses, or only those `where` it says so.

        The index is checked as in `batch`; on a GPU the host does not wait for `where`.
        """
        index = self._checked(index)
        _replace(self.images, index, images, where)
        _replace(self.poses, index, poses, where)

    def _checked(self, index: Int64[Tensor, "b"]) -> Int64[Tensor, "b"]:
        if index.device.type == "cpu" and index.numel():
            low, high = (int(end) for end in index.aminmax())
            if low < 0 or high >= self.num:
                raise IndexError(
                    f"image index {low if low < 0 else high} must be in [0, {self.num - 1}]"
                )
        return index

    def _gather(self, index: Int64[Tensor, "b"]) -> UInt8[Tensor, "b 3 h w"]:
        """Rows of a bank in host memory, in staging memory of their own."""
        index = self._checked(index.cpu())
        shape = (len(index), *self.images.shape[1:])
        staging = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin)
        return torch.index_select(self.images, 0, index, out=staging)

    def _to_device(self, staging: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b 3 h w"]:
        # The allocator of pinned memory reuses a block only after the copies from it have ended.
        return _unit(staging.to(self.device, non_blocking=self._pin))


def _unit(images: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b 3 h w"]:
    return images / 255


def _replace(
    rows: Shaped[Tensor, "n *row"],
    index: Int64[Tensor, "b"],
    new: Shaped[Tensor, "b *row"],
    where: Bool[Tensor, "b"] | None,
) -> None:
    index, new = index.to(rows.device), new.to(rows.device)
    if where is not None:
        kept = where.to(rows.device).view(-1, *[1] * (rows.ndim - 1))
        new = torch.where(kept, new, rows.index_select(0, index))
    rows.index_copy_(0, index, new)
