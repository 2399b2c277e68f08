"""The file beside a .ply: it round-trips, follows its .ply, and is refused when it does not fit."""

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


def test_ply_is_the_same_with_and_without_appearance(tmp_path: Path) -> None:
    """Other tools see nothing of it."""
    save_ply(tmp_path / "with.ply", gaussians())
    save_ply(tmp_path / "without.ply", replace(gaussians(), appearance=None))
    assert (tmp_path / "with.ply").read_bytes() == (tmp_path / "without.ply").read_bytes()
    assert load_ply(tmp_path / "without.ply").appearance is None


def test_saving_without_appearance_removes_a_stale_one(tmp_path: Path) -> None:
    """The light of other Gaussians must not come back."""
    path = tmp_path / "room.ply"
    save_ply(path, gaussians())
    save_ply(path, replace(gaussians(), appearance=None))
    assert load_ply(path).appearance is None
    assert not appearance_path(path).exists()


def test_other_gaussians_are_refused(tmp_path: Path) -> None:
    """A .ply that was pruned by another tool no longer fits its appearance."""
    path = tmp_path / "room.ply"
    save_ply(path, gaussians())
    light = appearance_path(path).read_bytes()
    whole = gaussians()
    parts = (whole.means, whole.quats, whole.log_scales, whole.opacity_logits, whole.sh)
    save_ply(path, Gaussians(*(part[:3] for part in parts)))
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
