"""Photographs on their way to the network: decoding, the bank on the device and on the host."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from benchmarks import paths, workloads
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import Scale
from rap.data import images as loading
from rap.data.images import ImageBank, decode
from rap.scene import Frame, Scene, poses
from rap.splat.quality import psnr

NUM_PHOTOGRAPHS = 32
NUM_BATCHES = 16
MIN_PSNR_DB = {"png": 80.0, "jpg": 28.0}
"""Against the pixels that were written; png is exact and gives infinity."""


@pytest.mark.parametrize("num_workers", axis([0, 4], full=[1, 2, 8]))
@pytest.mark.parametrize("file_format", axis(["png"], full=["jpg"]))
@pytest.mark.parametrize("cached", axis([False], full=[True]))
def bench_data_decode(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scale: Scale, scene: Scene,
    num_workers: int, file_format: str, cached: bool,
) -> None:  # fmt: skip
    """Files to resized pixels in host memory: those of the pictures that were written."""
    frames = workloads.thinned(scene.train, NUM_PHOTOGRAPHS)
    pictures = pictures_of(frames, scene)
    files = written_frames(frames, pictures, tmp_path, file_format)
    camera = scene.camera.with_height(scale.image_height)
    folder = tmp_path / "cache" if cached else None
    opened = paths.count_calls(monkeypatch, Image, "open")
    pools = paths.pool_sizes(monkeypatch, loading)

    result = measure(
        lambda: decode(files, camera, num_workers, folder), items=len(files), unit="images"
    )

    result.check(set(pools) == ({num_workers} - {0}), f"pools of {set(pools)} threads")
    if cached:
        decode(files, camera, num_workers, folder)
        once = len(files) + 1  # the first one twice, for its size
        result.check(opened.num == once, f"{opened.num} images were opened in spite of the cache")
    in_memory = [
        replace(frame, image=picture) for frame, picture in zip(frames, pictures, strict=True)
    ]
    expected = decode(in_memory, camera, num_workers=0)
    worst = float(psnr(result.value / 255, expected / 255).min())
    result.check(worst >= MIN_PSNR_DB[file_format], f"{worst:.1f} dB from the pictures written")


@pytest.mark.parametrize("batch_size", axis([8, 64], full=[16, 32]))
def bench_data_gather(
    measure: Measure, device: torch.device, scale: Scale, scene: Scene, batch_size: int
) -> None:
    """A batch from the bank on the device, by an index that is there."""
    photos = workloads.photographs(scene, scale.image_height)
    bank = ImageBank(photos, poses(scene.train).float(), device, 2**33, pin_memory=False)
    index = random_index(1, batch_size, len(photos))[0]
    on_device = index.to(device)

    read_and_written = (1 + 4) * photos[index].numel()
    result = measure(
        lambda: bank.batch(on_device), items=batch_size, unit="images", clock="gpu",
        moves_bytes=read_and_written,
    )  # fmt: skip

    result.check(bank.resident, "the bank is not on the device")
    result.check(holds(result.value, photos[index]), "the batch holds other images")


@pytest.mark.parametrize(
    ("num_workers", "pin_memory"),
    combine(
        axis([0, 4], full=[1, 2, 8]), axis([True], cuda=[False]),
        default=lambda num_workers, pin_memory: pin_memory,
    ),
)  # fmt: skip
def bench_data_stream(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, device: torch.device, scale: Scale,
    scene: Scene, num_workers: int, pin_memory: bool,
) -> None:  # fmt: skip
    """Batches of 64 from a bank that does not fit: gathered on the host, copied to the device."""
    photos = workloads.photographs(scene, scale.image_height)
    bank = ImageBank(photos, poses(scene.train).float(), device, 0, pin_memory)
    indices = random_index(NUM_BATCHES, 64, len(photos))
    pools = paths.pool_sizes(monkeypatch, loading)

    result = measure(
        lambda: torch.stack([batch.mean() for batch in bank.batches(iter(indices), num_workers)]),
        items=indices.numel(), unit="images",
    )  # fmt: skip

    result.check(not bank.resident, "the bank is on the device")
    pinned = bank.images.is_pinned() if device.type == "cuda" else pin_memory
    result.check(pinned == pin_memory, f"page-locked: {pinned}, wanted: {pin_memory}")
    result.check(set(pools) == ({num_workers} - {0}), f"pools of {set(pools)} threads")
    means = torch.stack([(photos[index] / 255).mean() for index in indices])
    result.check(torch.allclose(result.value.cpu(), means, rtol=1e-4), "a batch has another mean")
    streamed = bank.batches(iter(indices), num_workers)
    same = all(holds(batch, photos[index]) for batch, index in zip(streamed, indices, strict=True))
    result.check(same, "a batch holds other images")


@pytest.mark.parametrize(
    "cache", axis(["decoded"], cuda=["pinned"], full=["disk", "host", "device"])
)
@pytest.mark.parametrize("num_workers", axis([4], full=[0, 8]))
@pytest.mark.parametrize("file_format", axis(["png"], full=["jpg"]))
def bench_data_epoch(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: torch.device,
    scale: Scale, scene: Scene, cache: str, num_workers: int, file_format: str,
) -> None:  # fmt: skip
    """As many photographs as there are, in batches of 8, from wherever they are kept.

    From `disk` or already `decoded` there, or from a bank in `host` memory, `pinned`, on the
    `device`: what comes before is not timed.
    """
    frames = workloads.thinned(scene.train, NUM_PHOTOGRAPHS)
    files = written_frames(frames, pictures_of(frames, scene), tmp_path, file_format)
    camera, true = scene.camera.with_height(scale.image_height), poses(frames).float()
    folder = tmp_path / "cache" if cache == "decoded" else None
    expected = decode(files, camera, num_workers, folder)
    indices = random_index(len(files) // 8, 8, len(files))
    pinned, budget_bytes = cache == "pinned", 2**33 if cache == "device" else 0

    def bank(photos: UInt8[Tensor, "n 3 h w"]) -> ImageBank:
        return ImageBank(photos, true, device, budget_bytes, pinned)

    kept = None if cache in ("disk", "decoded") else bank(expected)
    opened = paths.count_calls(monkeypatch, Image, "open")
    rounds = paths.Calls()

    def epoch() -> Tensor:
        rounds.num += 1
        used = bank(decode(files, camera, num_workers, folder)) if kept is None else kept
        order = iter(indices.to(device) if used.resident else indices)
        return torch.stack([batch.mean((1, 2, 3)) for batch in used.batches(order, num_workers)])

    result = measure(epoch, items=len(files), unit="images")

    per_round = len(files) + 1 if cache == "disk" else 0  # the first one twice, for its size
    message = f"{opened.num} files were decoded in {rounds.num} rounds"
    result.check(opened.num == per_round * rounds.num, message)
    used = bank(expected) if kept is None else kept
    found = (used.resident, used.images.is_pinned())
    result.check(found == (cache == "device", pinned), f"(on the device, page-locked): {found}")
    means = (expected[indices] / 255).mean((2, 3, 4))
    result.check(torch.allclose(result.value.cpu(), means, rtol=1e-4), "a photograph is another")


def holds(batch: Float[Tensor, "b 3 h w"], photos: UInt8[Tensor, "b 3 h w"]) -> bool:
    """Whether a batch holds these photographs; a GPU divides by 255 to the last bit but one."""
    return torch.allclose(batch.cpu(), photos / 255, rtol=1e-6, atol=0)


def random_index(num_batches: int, batch_size: int, num_images: int) -> Int64[Tensor, "s b"]:
    """Indices of a fixed seed."""
    generator = torch.Generator().manual_seed(workloads.SEED)
    return torch.randint(num_images, (num_batches, batch_size), generator=generator)


def pictures_of(frames: Sequence[Frame], scene: Scene) -> list[np.ndarray]:
    """The frames at the scene's own size."""
    full_size = decode(frames, scene.camera, num_workers=0)
    return [image.permute(1, 2, 0).numpy() for image in full_size]


def written_frames(
    frames: Sequence[Frame], pictures: Sequence[np.ndarray], folder: Path, file_format: str
) -> list[Frame]:
    """The same frames with their pictures in files."""
    return [
        replace(frame, image=written(folder / f"{number}.{file_format}", picture))
        for number, (frame, picture) in enumerate(zip(frames, pictures, strict=True))
    ]


def written(path: Path, picture: np.ndarray) -> Path:
    """A picture as a file, of good quality where the format loses any."""
    Image.fromarray(picture).save(path, quality=95)
    return path
