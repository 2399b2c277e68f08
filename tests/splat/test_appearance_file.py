"""The file beside a .ply: it round-trips, follows its .ply, and is refused when it does not fit."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rap.scene import DataError
from rap.splat.appearance import Appearance
from rap.splat.appearance_file import FORMAT, VERSION, appearance_path, load_appearance
from rap.splat.gaussians import Gaussians, load_ply, save_ply

NUM = 5
HEADER = {"format": FORMAT, "version": VERSION}


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def gaussians() -> Gaussians:
    """Five Gaussians with the light of three photographs."""
    light = Appearance(normal(3, 4), normal(NUM, 2), normal(4, 6), normal(6, 12), normal(3, 3, 4))
    return Gaussians(
        normal(NUM, 3), normal(NUM, 4), normal(NUM, 3), normal(NUM), normal(NUM, 1, 3),
        appearance=light,
    )  # fmt: skip


def tensors() -> dict[str, Tensor]:
    return {name: value.clone() for name, value in vars(gaussians().appearance).items()}


def test_appearance_round_trips_beside_its_ply(tmp_path: Path) -> None:
    """Every tensor comes back to the bit."""
    save_ply(tmp_path / "room.ply", gaussians())
    assert (tmp_path / "room.appearance.safetensors").exists()
    back = load_ply(tmp_path / "room.ply").appearance
    assert back is not None
    for name, expected in tensors().items():
        assert torch.equal(getattr(back, name), expected)


def test_ply_differs_by_a_comment_alone(tmp_path: Path) -> None:
    """Other tools see the same Gaussians with and without an appearance."""
    save_ply(tmp_path / "with.ply", gaussians())
    save_ply(tmp_path / "without.ply", replace(gaussians(), appearance=None))
    lines, others = (
        (tmp_path / name).read_bytes().split(b"\n") for name in ("with.ply", "without.ply")
    )
    differing = [pair for pair in zip(lines, others, strict=True) if pair[0] != pair[1]]
    assert len(differing) == 1
    assert differing[0][0].startswith(b"comment appearance ")
    assert differing[0][1] == b"comment appearance none"
    assert load_ply(tmp_path / "without.ply").appearance is None


def test_saving_without_appearance_removes_a_stale_one(tmp_path: Path) -> None:
    """The light of other Gaussians must not come back, not even if it could not be removed."""
    path = tmp_path / "room.ply"
    save_ply(path, gaussians())
    light = appearance_path(path).read_bytes()
    save_ply(path, replace(gaussians(), appearance=None))
    assert not appearance_path(path).exists()
    appearance_path(path).write_bytes(light)
    assert load_ply(path).appearance is None


def test_a_ply_without_its_appearance_is_refused(tmp_path: Path) -> None:
    """Copied alone it would silently show the mean light; the message says what to do."""
    save_ply(tmp_path / "room.ply", gaussians())
    copy = tmp_path / "copy.ply"
    copy.write_bytes((tmp_path / "room.ply").read_bytes())
    message = r"copy\.ply: .*copy\.appearance\.safetensors cannot be read.*comment appearance none"
    with pytest.raises(DataError, match=message):
        load_ply(copy)


def test_an_appearance_of_the_same_size_but_another_fit_is_refused(tmp_path: Path) -> None:
    """Files of two fits that were mixed up."""
    path = tmp_path / "room.ply"
    save_ply(path, gaussians())
    light = appearance_path(path).read_bytes()
    whole = gaussians()
    assert whole.appearance is not None
    save_ply(path, replace(whole, appearance=replace(whole.appearance, codes=normal(3, 4) + 1)))
    appearance_path(path).write_bytes(light)
    with pytest.raises(DataError, match=r"appearance\.safetensors: not the appearance that"):
        load_ply(path)


@pytest.mark.parametrize("number", [0, 1])
def test_a_save_that_fails_leaves_the_splat_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A disk that is full at the first or at the second file spoils nothing that was there."""
    path = tmp_path / "room.ply"
    save_ply(path, gaussians())
    before = path.read_bytes(), appearance_path(path).read_bytes()
    whole = gaussians()
    assert whole.appearance is not None
    other = replace(whole, appearance=replace(whole.appearance, codes=normal(3, 4) + 1))

    def write(file: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device", str(file))

    def open_file(file: Path, mode: str) -> None:
        raise OSError(28, "No space left on device", str(file))

    if number:
        monkeypatch.setattr(Path, "write_bytes", write)
    else:
        monkeypatch.setattr(Path, "open", open_file)
    with pytest.raises(OSError, match="No space left"):
        save_ply(path, other)
    monkeypatch.undo()
    assert (path.read_bytes(), appearance_path(path).read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_header_that_says_nothing_takes_what_is_there(tmp_path: Path) -> None:
    """Older files have no such comment; one of other Gaussians is refused by its counts."""
    path = tmp_path / "room.ply"
    save_ply(path, gaussians())
    text = path.read_bytes()
    silent = re.sub(rb"comment appearance .*\n", b"", text)
    assert silent != text
    path.write_bytes(silent)
    assert load_ply(path).appearance is not None
    light = appearance_path(path).read_bytes()
    whole = gaussians()
    parts = (whole.means, whole.quats, whole.log_scales, whole.opacity_logits, whole.sh)
    save_ply(path, Gaussians(*(part[:3] for part in parts)))
    path.write_bytes(re.sub(rb"comment appearance .*\n", b"", path.read_bytes()))
    appearance_path(path).write_bytes(light)
    with pytest.raises(DataError, match=r": it holds 5 Gaussians, the \.ply 3$"):
        load_ply(path)


def broken(case: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    values, header = tensors(), dict(HEADER)
    if case == "missing":
        del values["hidden"]
    elif case == "unknown":
        values["bias"] = normal(3)
    elif case == "type":
        values["codes"] = values["codes"].double()
    elif case == "nan":
        values["features"][2, 1] = float("nan")
    elif case == "shape":
        values["output"] = normal(6, 11)
    elif case == "images":
        values["exposure"] = values["exposure"][:2]
    else:
        header["version"] = "0"
    return values, header


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "hidden is missing"),
        ("unknown", "bias is unknown"),
        ("type", "codes is torch.float64 of 2 dimensions"),
        ("nan", "features is not finite"),
        ("shape", r"output is \[6, 11\] instead of \[6, 12\]"),
        ("images", r"exposure is \[2, 3, 4\] instead of \[3, 3, 4\]"),
        ("version", "accepted: rap-appearance 1"),
    ],
)
def test_unfit_files_are_refused(tmp_path: Path, case: str, message: str) -> None:
    """One DataError that names the file and what is wrong."""
    path = tmp_path / "room.appearance.safetensors"
    values, header = broken(case)
    save_file(values, path, header)
    with pytest.raises(DataError, match=f"room.appearance.safetensors.*{message}"):
        load_appearance(path, NUM)


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    """What is no safetensors file says so, and so does what is not there."""
    path = tmp_path / "room.appearance.safetensors"
    path.write_bytes(b"no such thing")
    with pytest.raises(DataError, match="not a safetensors file"):
        load_appearance(path, NUM)
    with pytest.raises(DataError, match="cannot be read"):
        load_appearance(tmp_path / "none", NUM)
