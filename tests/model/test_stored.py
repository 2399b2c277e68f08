"""Files of tensors that are something else: one sentence of our own, and no code that is run."""

from pathlib import Path

import pytest
import torch

from rap.camera import Camera
from rap.model.checkpoint import CheckpointError, load
from rap.model.stored import UnreadableError, read_torch
from rap.model.upstream import convert_checkpoint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
CAMERA = Camera(300.0, 300.0, 160.0, 120.0, 320, 240)


class Evil:
    """Unpickled by a reader that trusts it, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


def test_tensors_are_read(tmp_path: Path) -> None:
    """What torch.save wrote comes back."""
    torch.save({"a": torch.arange(3)}, tmp_path / "a.pt")
    found = read_torch(tmp_path / "a.pt", "cpu")
    assert isinstance(found, dict)
    assert found["a"].tolist() == [0, 1, 2]


def test_code_is_named_and_not_run(tmp_path: Path) -> None:
    """The refusal says what was found, and never how to trust it."""
    path, made = tmp_path / "evil.pth", tmp_path / "made"
    torch.save({"model_state_dict": Evil(made)}, path)
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(path, CAMERA)
    text = str(caught.value)
    assert text.startswith(f"{path}: not a file of weights: it holds more than tensors and numbers")
    assert "could run code and is not loaded" in text
    assert "touch" in text or "getattr" in text
    for advice in ("weights_only", "Re-running", "trust"):
        assert advice not in text
    assert not made.exists()


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    """A zip file that PyTorch did not save."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("data.pkl", "hello")
    with pytest.raises(UnreadableError, match="cut short, altered, or not saved by PyTorch"):
        read_torch(tmp_path / "a.zip", "cpu")


def test_a_pointer_says_how_to_get_the_file(tmp_path: Path) -> None:
    """Both formats of weights: a repository cloned without Git LFS holds pointers only."""
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=r"a\.pth: .*a Git-LFS pointer.*`git lfs pull`"):
        convert_checkpoint(tmp_path / "a.pth", CAMERA)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: .*pointer.*`git lfs pull`"):
        load(tmp_path / "a.safetensors", torch.device("cpu"))


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    """As a full disk leaves it."""
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(CheckpointError, match="not a safetensors file but an empty file"):
        load(tmp_path / "a.safetensors", torch.device("cpu"))
