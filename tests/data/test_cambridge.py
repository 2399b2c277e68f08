"""Cambridge folders, prepared and as published: poses, focal lengths, faults."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rap.camera import Camera
from rap.data import cambridge
from rap.scene import DataError
from tests.data.folders import (
    LFS_POINTER,
    folder,
    small_scene,
    write_cambridge_prepared,
    write_cambridge_published,
    write_image,
)

WRITERS = {"prepared": write_cambridge_prepared, "published": write_cambridge_published}


@pytest.mark.parametrize("layout", WRITERS)
def test_both_layouts_hold_the_same_poses(tmp_path: Path, layout: str) -> None:
    """A camera-to-world matrix, or a centre and the quaternion of the other direction."""
    WRITERS[layout](tmp_path / "box")
    scene, truth = cambridge.read(tmp_path / "box"), small_scene()
    assert (len(scene.train), len(scene.test)) == (6, 2)
    for found, expected in zip(scene.train, truth.train, strict=True):
        torch.testing.assert_close(
            found.world_from_camera, expected.world_from_camera, rtol=0, atol=1e-9
        )


def test_the_prepared_layout_is_taken_where_both_are(tmp_path: Path) -> None:
    """The preparing scripts write smaller photographs into the published folder."""
    write_cambridge_published(tmp_path, focal=1680.0)
    write_cambridge_prepared(tmp_path)
    scene = cambridge.read(tmp_path)
    assert scene.train[0].name == "01_000000"
    expected = (1680 * 32 / 1920, 1680 * 24 / 1080)
    assert (scene.camera.fx, scene.camera.fy) == pytest.approx(expected)
    assert (scene.camera.cx, scene.camera.cy) == (16.0, 12.0)


def test_the_reconstruction_gives_focal_length_and_points(tmp_path: Path) -> None:
    """In the published layout both belong to the photographs as they are."""
    write_cambridge_published(tmp_path)
    scene, truth = cambridge.read(tmp_path), small_scene()
    assert scene.camera == Camera(42.0, 42.0, 16.0, 12.0, 32, 24)
    assert scene.points is not None
    assert truth.points is not None
    torch.testing.assert_close(scene.points.xyz, truth.points.xyz)
    assert torch.equal(scene.points.rgb, truth.points.rgb)


def test_focal_lengths_far_from_the_median_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every photograph has its own estimate; the median stands for all."""
    write_cambridge_prepared(tmp_path)
    (tmp_path / "train/calibration").mkdir()
    for index, focal in enumerate((40.0, 40.2, 50.0)):
        (tmp_path / f"train/calibration/{index}.txt").write_text(f"{focal}\n")
    assert cambridge.read(tmp_path).camera.fx == 40.2
    assert "calibration: 1 of 3 focal lengths are more than 5%" in capsys.readouterr().err
    (tmp_path / "train/calibration/2.txt").write_text("41 0 16 0 41 12 0 0 1")
    assert cambridge.read(tmp_path).camera.fx == 40.2
    (tmp_path / "camera.json").write_text(json.dumps(asdict(small_scene().camera)))
    assert cambridge.read(tmp_path).camera == small_scene().camera


def test_the_customary_focal_length_is_assumed_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """744 px at 480 rows, where nothing says otherwise."""
    write_cambridge_prepared(tmp_path)
    assert cambridge.read(tmp_path).camera.fx == pytest.approx(744 * 24 / 480)
    assert "assuming the customary focal length of 37 px" in capsys.readouterr().err


def test_unplaced_photographs_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that the reconstruction lacks, and those that it placed absurdly far away."""
    write_cambridge_published(tmp_path)
    path = tmp_path / "dataset_train.txt"
    far = " 2e5 0 0 1 0 0 0"
    lines = path.read_text().splitlines()
    lines[4] = lines[4].split()[0] + far
    path.write_text("\n".join([*lines, "01/unplaced.png 0 0 0 1 0 0 0"]))
    scene = cambridge.read(tmp_path)
    assert [f.name for f in scene.train] == [f"01/00000{i}" for i in (0, 2, 3, 4, 5)]
    assert "dataset_train.txt: 2 of 7 images left out" in capsys.readouterr().err


def test_two_photographs_of_the_shop_are_left_out(tmp_path: Path) -> None:
    """By name, and only there."""
    for name, expected in (("ShopFacade", 6), ("OldHospital", 7)):
        root = tmp_path / name
        write_cambridge_prepared(root)
        write_image(small_scene().train[0], root / "train/rgb/seq2_frame00036.png")
        shutil.copy(root / "train/poses/01_000000.txt", root / "train/poses/seq2_frame00036.txt")
        assert len(cambridge.read(root).train) == expected


PREPARED: dict[str, Callable[[Path, str], object]] = {
    r"rgb/NAME\.png: no such file": lambda p, n: (p / f"rgb/{n}.png").unlink(),
    r"poses/NAME\.txt: no such file": lambda p, n: (p / f"poses/{n}.txt").unlink(),
    r"poses/NAME\.txt: a Git-LFS": lambda p, n: (p / f"poses/{n}.txt").write_text(LFS_POINTER),
    r"poses/NAME\.txt: .* mirror": lambda p, n: np.savetxt(
        p / f"poses/{n}.txt", np.loadtxt(p / f"poses/{n}.txt") @ np.diag([1, -1, 1, 1])
    ),
    r"rgb/NAME\.png: a Git-LFS": lambda p, n: (p / f"rgb/{n}.png").write_text(LFS_POINTER),
}


@given(fault=st.sampled_from(sorted(PREPARED)), index=st.integers(0, 5))
def test_a_broken_prepared_file_is_named(fault: str, index: int) -> None:
    """One fault in one file is one error with that file's name."""
    with folder(write_cambridge_prepared) as root:
        (root / "camera.json").write_text(json.dumps(asdict(small_scene().camera)))
        PREPARED[fault](root / "train", f"01_00000{index}")
        with pytest.raises(DataError, match=fault.replace("NAME", f"01_00000{index}")):
            cambridge.read(root)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


PUBLISHED: dict[str, Callable[[Path], object]] = {
    r"dataset_test\.txt: no such file": lambda r: (r / "dataset_test.txt").unlink(),
    r"dataset_test\.txt: the test split is empty": lambda r: (r / "dataset_test.txt").write_text(
        "Visual Landmark Dataset V1\n\n\n"
    ),
    r"dataset_test\.txt: 6 frames are in both": lambda r: shutil.copy(
        r / "dataset_train.txt", r / "dataset_test.txt"
    ),
    r"dataset_train\.txt: 01/000000\.png: holds 8 numbers": lambda r: replace_in(
        r / "dataset_train.txt", ".png ", ".png 1 "
    ),
    r"01/000002\.png: no such image": lambda r: (r / "01/000002.png").unlink(),
    r"reconstruction\.nvm: does not begin with NVM_V3": lambda r: replace_in(
        r / "reconstruction.nvm", "NVM", "VNM"
    ),
    r"reconstruction\.nvm: .* truncated": lambda r: (r / "reconstruction.nvm").write_text(
        (r / "reconstruction.nvm").read_text()[:900]
    ),
    r"reconstruction\.nvm: camera 01/000000.jpg: could not": lambda r: replace_in(
        r / "reconstruction.nvm", " 42.0 ", " f "
    ),
}


@pytest.mark.parametrize("fault", PUBLISHED)
def test_a_broken_published_file_is_named(tmp_path: Path, fault: str) -> None:
    """Missing, empty, overlapping and malformed lists, and a broken reconstruction."""
    write_cambridge_published(tmp_path)
    PUBLISHED[fault](tmp_path)
    with pytest.raises(DataError, match=fault):
        cambridge.read(tmp_path)


def test_photographs_may_have_another_suffix(tmp_path: Path) -> None:
    """The lists say .png, and some copies hold .jpg."""
    write_cambridge_published(tmp_path)
    shutil.move(tmp_path / "01/000002.png", tmp_path / "01/000002.jpg")
    assert cambridge.read(tmp_path).train[2].image == tmp_path / "01/000002.jpg"
