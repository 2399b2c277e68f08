"""The cache of decoded images: found again, made again, and never the end of a run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from rap import log
from rap.camera import Camera
from rap.data.images import decode
from tests.data.folders import random_frames

CAMERA = Camera(20.0, 20.0, 10.0, 6.0, 20, 12)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is opened as an image from now on."""
    paths = []
    original = Image.open

    def spy(path: Path) -> Image.Image:
        paths.append(path)
        return original(path)

    monkeypatch.setattr(Image, "open", spy)
    return paths


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every warning shown from now on."""
    shown: list[str] = []
    monkeypatch.setattr(log, "warn", shown.append)
    return shown


def test_cache_hit_decodes_nothing(tmp_path: Path, opened: list[Path]) -> None:
    """The second call returns the same pixels without opening an image."""
    frames = random_frames(4, tmp_path)
    first = decode(frames, CAMERA, 2, tmp_path / "cache")
    assert len(opened) >= 4
    opened.clear()
    assert torch.equal(decode(frames, CAMERA, 2, tmp_path / "cache"), first)
    assert opened == []


def test_cache_misses_when_content_size_or_order_changes(tmp_path: Path) -> None:
    """The key is what the pixels depend on, and nothing else."""
    frames, cache = random_frames(3, tmp_path), tmp_path / "cache"
    decode(frames, CAMERA, 0, cache)
    image = frames[1].image
    assert isinstance(image, Path)
    Image.new("RGB", (20, 12), (9, 9, 9)).save(image)
    assert (decode(frames, CAMERA, 0, cache)[1] == 9).all()
    assert (decode(frames[::-1], CAMERA, 0, cache)[1] == 9).all()
    assert decode(frames, CAMERA.resized(10, 6), 0, cache).shape == (3, 3, 6, 10)
    assert len(list(cache.iterdir())) == 4


def test_cache_key_does_not_depend_on_names(tmp_path: Path, opened: list[Path]) -> None:
    """A renamed scene finds its decoded images again."""
    frames, cache = random_frames(2, tmp_path), tmp_path / "cache"
    first = decode(frames, CAMERA, 0, cache)
    opened.clear()
    moved = []
    for frame in frames:
        assert isinstance(frame.image, Path)
        moved.append(replace(frame, image=frame.image.rename(tmp_path / f"x{frame.image.name}")))
    assert torch.equal(decode(moved, CAMERA, 0, cache), first)
    assert opened == []


@pytest.mark.parametrize("damage", ["garbage", "cut", "flipped"])
def test_damaged_cache_entry_is_made_again_with_one_warning(
    tmp_path: Path, warnings: list[str], damage: str
) -> None:
    """Garbage, a cut-off file and a flipped bit are noticed; the next call is clean again."""
    frames, cache = random_frames(2, tmp_path), tmp_path / "cache"
    first = decode(frames, CAMERA, 0, cache)
    (entry,) = cache.iterdir()
    content = entry.read_bytes()
    flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
    entry.write_bytes({"garbage": b"?" * 50, "cut": content[:-9], "flipped": flipped}[damage])
    assert torch.equal(decode(frames, CAMERA, 0, cache), first)
    assert len(warnings) == 1
    assert entry.name in warnings[0]
    decode(frames, CAMERA, 0, cache)
    assert len(warnings) == 1


def test_cache_entry_that_is_removed_while_it_is_read_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder may be deleted at any time, also between the two times that a file is opened."""
    frames, cache = random_frames(1, tmp_path), tmp_path / "cache"
    first = decode(frames, CAMERA, 0, cache)
    map_file = torch.UntypedStorage.from_file

    def removed(filename: str, *given: object, **named: object) -> object:
        Path(filename).unlink()
        return map_file(filename, *given, **named)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", removed)
    assert torch.equal(decode(frames, CAMERA, 0, cache), first)


def test_cache_folder_that_cannot_be_written_only_warns(
    tmp_path: Path, warnings: list[str]
) -> None:
    """Decoded images are returned even where they cannot be kept."""
    frames = random_frames(1, tmp_path)
    (tmp_path / "file").write_text("in the way")
    assert decode(frames, CAMERA, 0, tmp_path / "file" / "cache").shape == (1, 3, 12, 20)
    assert len(warnings) == 1
