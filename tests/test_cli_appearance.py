"""Appearance from the command line: fitted, kept beside the .ply, scored, drawn as a sheet."""

import re
from pathlib import Path

import pytest
from PIL import Image

from rap import cli
from rap.data.room import RoomSpec, write

FIT = ["--fit.iterations", "6", "--fit.max-gaussians", "80", "--fit.sh-degree", "0"]


@pytest.fixture(scope="module")
def small_room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and two test photographs under varying lamps."""
    folder = tmp_path_factory.mktemp("scene") / "room"
    write(RoomSpec(num_train=6, num_test=2, width=32, height=24, num_points=60), folder)
    return folder


def fit(room: Path, out: Path, *more: str) -> int:
    return cli.main(["fit", str(room), "-o", str(out), "--device", "cpu", *FIT, *more])


def test_fitted_light_is_kept_scored_and_drawn(
    small_room: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The sidecar is written, right halves get their own figures, twelve appearances fit a page."""
    splat, views = tmp_path / "a.ply", tmp_path / "views"
    assert fit(small_room, splat, "--fit.appearance-dim", "2") == 0
    assert splat.with_suffix(".appearance.safetensors").exists()
    said = capfd.readouterr().err.replace("\n", " ")
    assert re.search(r"right halves, medians: PSNR [\d.]+ dB in the mean appearance", said)
    drawing = ["render", "--splat", str(splat), "--poses", str(small_room), "--device", "cpu"]
    assert cli.main([*drawing, "-o", str(views), "--appearances", "12"]) == 0
    with Image.open(views / "seq-02-frame-000001.png") as sheet:
        assert sheet.size == (4 * 32, 3 * 24)


def test_light_that_was_not_fitted_cannot_be_varied(
    small_room: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One clear error that says what to do; no figure is printed for what is not there."""
    splat = tmp_path / "a.ply"
    assert fit(small_room, splat) == 0
    assert "code and exposure" not in capfd.readouterr().err
    drawing = ["render", "--splat", str(splat), "--poses", str(small_room), "--device", "cpu"]
    assert cli.main([*drawing, "-o", str(tmp_path / "views"), "--appearances", "2"]) != 0
    said = capfd.readouterr().err.replace("\n", " ")
    assert "has no appearance to vary; fit it with --fit.appearance-dim 8" in said
    assert not (tmp_path / "views").exists()
