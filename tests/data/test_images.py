"""Decoding, and the bank that batches come from."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rap.camera import Camera
from rap.data.images import ImageBank, decode
from rap.scene import DataError, Frame
from tests.data.folders import random_frames

CAMERA = Camera(20.0, 20.0, 10.0, 6.0, 20, 12)


def pixels(frame: Frame) -> np.ndarray:
    """What the file of a frame holds, `[h, w, 3]`."""
    assert isinstance(frame.image, Path)
    with Image.open(frame.image) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_decode_returns_the_files_pixels_in_order(tmp_path: Path, num_workers: int) -> None:
    """Without resizing every pixel arrives unchanged, whatever the number of threads."""
    frames = random_frames(7, tmp_path)
    decoded = decode(frames, CAMERA, num_workers)
    expected = np.stack([pixels(frame).transpose(2, 0, 1) for frame in frames])
    assert np.array_equal(decoded.numpy(), expected)


def test_decode_takes_frames_in_memory_like_files(tmp_path: Path) -> None:
    """An array and the file that holds it decode to the same pixels, resized or not."""
    files = random_frames(2, tmp_path)
    arrays = [replace(frame, image=pixels(frame).copy()) for frame in files]
    for camera in (CAMERA, CAMERA.resized(10, 6)):
        assert torch.equal(decode(files, camera), decode(arrays, camera))


def test_decode_of_nothing_is_empty() -> None:
    """No frames give a tensor with no images and the right shape."""
    assert decode([], CAMERA).shape == (0, 3, 12, 20)


def test_decode_resizes_with_antialiasing(tmp_path: Path) -> None:
    """A one-pixel checkerboard shrinks to its mean, not to a sample of it."""
    board = np.indices((48, 80)).sum(0) % 2 * 255
    image = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    frame = Frame("board", torch.eye(4, dtype=torch.float64), image)
    inner = decode([frame], CAMERA)[0, :, 1:-1, 1:-1].float()
    assert (inner - 127.5).abs().max() < 16


def test_decode_resizing_keeps_positions(tmp_path: Path) -> None:
    """A ramp stays the same ramp at the new size: pixel centres lie at +0.5."""
    x = np.arange(160) + 0.5
    image = np.broadcast_to(x[None, :, None], (96, 160, 3)).astype(np.uint8)
    frame = Frame("ramp", torch.eye(4, dtype=torch.float64), image)
    row = decode([frame], CAMERA)[0, 0, 5].double()
    assert torch.allclose(row[1:-1], (torch.arange(20.0).double() + 0.5)[1:-1] * 8, atol=1.0)


def test_decode_converts_grey_and_transparent_images(tmp_path: Path) -> None:
    """Whatever a file holds arrives as RGB."""
    grey, clear = tmp_path / "grey.png", tmp_path / "clear.png"
    Image.new("L", (20, 12), 90).save(grey)
    Image.new("RGBA", (20, 12), (1, 2, 3, 128)).save(clear)
    frames = [Frame(path.stem, torch.eye(4, dtype=torch.float64), path) for path in (grey, clear)]
    decoded = decode(frames, CAMERA)
    assert decoded[0, :, 0, 0].tolist() == [90, 90, 90]
    assert decoded[1, :, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.parametrize("content", [b"", b"not an image", b"truncated"])
def test_decode_names_the_file_that_cannot_be_read(
    tmp_path: Path, content: bytes, num_workers: int
) -> None:
    """Empty, foreign and cut-off files are one DataError with the path, from threads as well."""
    frames = random_frames(5, tmp_path)
    broken = frames[3].image
    assert isinstance(broken, Path)
    broken.write_bytes(broken.read_bytes()[:200] if content == b"truncated" else content)
    with pytest.raises(DataError, match=r"3\.png"):
        decode(frames, CAMERA, num_workers)


def test_decode_names_a_missing_file(tmp_path: Path) -> None:
    """A file that is gone is a DataError with its path, with and without a cache."""
    frames = random_frames(2, tmp_path)
    missing = replace(frames[1], image=tmp_path / "gone.jpg")
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(DataError, match=r"gone\.jpg"):
            decode([frames[0], missing], CAMERA, 0, cache)


def test_decode_names_both_files_of_unequal_size(tmp_path: Path) -> None:
    """The odd one out, its size and the first one's size are named."""
    frames = random_frames(3, tmp_path)
    odd = tmp_path / "odd.png"
    Image.new("RGB", (22, 12)).save(odd)
    with pytest.raises(DataError, match=r"odd\.png: 22x12 .*0\.png has 20x12"):
        decode([*frames, replace(frames[0], image=odd)], CAMERA)


def test_decode_refuses_a_negative_number_of_workers(tmp_path: Path) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match="num_workers = -1"):
        decode(random_frames(1, tmp_path), CAMERA, num_workers=-1)


def random_images(num: int, seed: int = 0) -> torch.Tensor:
    """uint8 noise, `[num, 3, 6, 8]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 3, 6, 8), generator=generator, dtype=torch.uint8)


def bank_of(
    num: int, device: torch.device, resident: bool, *, pin_memory: bool = True
) -> ImageBank:
    """A bank of noise with recognisable poses, on the device or in host memory."""
    images = random_images(num)
    poses = torch.eye(4).repeat(num, 1, 1)
    poses[:, 0, 3] = torch.arange(num)
    budget = images.nbytes if resident else images.nbytes - 1
    bank = ImageBank(images, poses, device, budget, pin_memory)
    assert bank.resident == resident
    return bank


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("pin_memory", [True, False])
def test_bank_batch_is_the_images_divided_by_255(
    device: torch.device, resident: bool, pin_memory: bool
) -> None:
    """Float32 on the device, 0 for black and 1 for white, rows in the order of the index."""
    bank = bank_of(9, device, resident, pin_memory=pin_memory)
    index = torch.tensor([8, 0, 3, 3])
    batch = bank.batch(index)
    assert batch.device.type == device.type
    assert batch.dtype == torch.float32
    expected = random_images(9)[index] / 255
    assert torch.allclose(batch.cpu(), expected, atol=1e-7, rtol=0)
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    one = ImageBank(white, torch.eye(4)[None], device, 100 if resident else 0, pin_memory)
    assert (one.batch(torch.tensor([0])) == 1).all()


@given(index=st.lists(st.integers(0, 10), max_size=12))
def test_bank_resident_and_in_host_memory_agree_bit_for_bit(index: list[int]) -> None:
    """Where the images lie changes nothing about a batch, an empty one included."""
    cpu = torch.device("cpu")
    chosen = torch.tensor(index, dtype=torch.int64)
    a, b = (bank_of(11, cpu, resident).batch(chosen) for resident in (True, False))
    assert torch.equal(a, b)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_bank_on_cuda_agrees_with_host_memory_bit_for_bit() -> None:
    """On a GPU, too, residence changes nothing."""
    cuda = torch.device("cuda")
    index = torch.tensor([4, 1, 1, 10])
    a, b = (bank_of(11, cuda, resident).batch(index) for resident in (True, False))
    assert torch.equal(a, b)


@pytest.mark.parametrize("num_workers", [0, 1, 4])
@pytest.mark.parametrize("resident", [True, False])
def test_bank_batches_are_batch_of_each_index_in_order(
    device: torch.device, resident: bool, num_workers: int
) -> None:
    """Prefetching changes neither order nor values."""
    bank = bank_of(20, device, resident)
    indices = [torch.randperm(20)[:5] for _ in range(13)]
    batches = list(bank.batches(iter(indices), num_workers))
    assert len(batches) == 13
    for index, batch in zip(indices, batches, strict=True):
        assert torch.equal(batch, bank.batch(index))


def test_bank_batches_run_ahead_by_no_more_than_the_workers() -> None:
    """Endless index streams work: what is drawn ahead is bounded."""
    bank = bank_of(6, torch.device("cpu"), resident=False)
    drawn = 0

    def endless() -> Iterator[torch.Tensor]:
        nonlocal drawn
        while True:
            drawn += 1
            yield torch.tensor([drawn % 6])

    batches = bank.batches(endless(), 2)
    for step in range(10):
        assert torch.equal(next(batches), bank.batch(torch.tensor([(step + 1) % 6])))
        assert drawn <= step + 1 + 3


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("wrong", [-1, 5])
def test_bank_refuses_an_index_out_of_range(resident: bool, wrong: int, num_workers: int) -> None:
    """The error names the index and the range, from `batch`, `write` and gathering threads."""
    bank = bank_of(5, torch.device("cpu"), resident)
    index = torch.tensor([0, wrong])
    message = rf"image index {wrong} must be in \[0, 4\]"
    with pytest.raises(IndexError, match=message):
        bank.batch(index)
    with pytest.raises(IndexError, match=message):
        list(bank.batches([index], num_workers))
    with pytest.raises(IndexError, match=message):
        bank.write(index, random_images(2), torch.eye(4).repeat(2, 1, 1))


@pytest.mark.parametrize("resident", [True, False])
def test_bank_write_replaces_images_and_poses(device: torch.device, resident: bool) -> None:
    """What was written is read back, the rest stays, and poses move along."""
    bank = bank_of(6, device, resident)
    new = random_images(2, seed=1)
    poses = torch.eye(4, device=device).repeat(2, 1, 1) * 2
    bank.write(torch.tensor([4, 1], device=device), new.to(device), poses)
    expected = random_images(6)
    expected[[4, 1]] = new
    assert torch.equal(bank.images.cpu(), expected)
    assert torch.equal(bank.poses[[4, 1]], poses)
    assert bank.poses[[0, 2, 3, 5], 0, 3].tolist() == [0, 2, 3, 5]


@pytest.mark.parametrize("resident", [True, False])
def test_bank_write_may_leave_some_rows(device: torch.device, resident: bool) -> None:
    """Only rows `where` it says so are replaced, images and poses alike."""
    bank = bank_of(6, device, resident)
    poses = torch.eye(4, device=device).repeat(2, 1, 1) * 2
    index = torch.tensor([4, 1], device=device)
    new = random_images(2, seed=1)
    bank.write(index, new.to(device), poses, where=torch.tensor([False, True], device=device))
    expected = random_images(6)
    expected[1] = new[1]
    assert torch.equal(bank.images.cpu(), expected)
    assert bank.poses[:, 0, 3].tolist() == [0, 0, 2, 3, 4, 5]


def test_bank_owns_its_memory(device: torch.device) -> None:
    """Writing to a bank leaves the tensors that it was made from alone, on the CPU as well."""
    images, poses = random_images(3), torch.eye(4).repeat(3, 1, 1)
    bank = ImageBank(images, poses, device, images.nbytes, pin_memory=True)
    black = torch.zeros(1, 3, 6, 8, dtype=torch.uint8, device=device)
    bank.write(torch.tensor([0]), black, torch.zeros(1, 4, 4, device=device))
    assert torch.equal(images, random_images(3))
    assert torch.equal(poses, torch.eye(4).repeat(3, 1, 1))


def test_bank_counts_its_images() -> None:
    """`num` is the number of images."""
    assert bank_of(7, torch.device("cpu"), resident=True).num == 7


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_bank_resident_batch_never_waits_for_the_gpu() -> None:
    """With the index on the device neither `batch` nor `write` synchronises."""
    cuda = torch.device("cuda")
    bank = bank_of(16, cuda, resident=True)
    index, poses = torch.arange(4, device=cuda), torch.eye(4, device=cuda).repeat(4, 1, 1)
    images = random_images(4).to(cuda)
    try:
        torch.cuda.set_sync_debug_mode("error")
        bank.write(index, images, poses)
        batch = bank.batch(index)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(batch, images / 255)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_bank_in_host_memory_is_pinned_on_request() -> None:
    """`pin_memory` page-locks the bank; without it memory is ordinary."""
    cuda = torch.device("cuda")
    assert bank_of(4, cuda, resident=False, pin_memory=True).images.is_pinned()
    assert not bank_of(4, cuda, resident=False, pin_memory=False).images.is_pinned()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_bank_streaming_keeps_values_under_a_busy_gpu() -> None:
    """Staging memory is not reused before its copy has ended."""
    cuda = torch.device("cuda")
    bank = bank_of(64, cuda, resident=False)
    busy = torch.randn(2048, 2048, device=cuda)
    indices = [torch.randperm(64)[:16] for _ in range(100)]
    batches = []
    for batch in bank.batches(indices, 4):
        busy = busy @ busy * 1e-3
        batches.append(batch)
    for index, batch in zip(indices, batches, strict=True):
        assert torch.allclose(batch.cpu(), random_images(64)[index] / 255, atol=1e-7, rtol=0)
