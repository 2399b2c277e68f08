"""7-Scenes folders: what is read, and what is refused with the file's name."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rap.data import seven_scenes
from rap.scene import DataError, Frame
from tests.data.folders import (
    LFS_POINTER,
    by_name,
    edit_json,
    folder,
    small_scene,
    write_seven_scenes,
)

FRAME = "seq-01/frame-{:06d}"


def image_of(frame: Frame) -> np.ndarray:
    assert isinstance(frame.image, Path)
    return np.array(Image.open(frame.image))


def edit_pose(edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, int], object]:
    def change(root: Path, index: int) -> None:
        path = root / f"{FRAME.format(index)}.pose.txt"
        np.savetxt(path, edit(np.loadtxt(path)))

    return change


def pointer(suffix: str) -> Callable[[Path, int], object]:
    return lambda root, i: (root / f"{FRAME.format(i)}{suffix}").write_text(LFS_POINTER)


def remove(suffix: str) -> Callable[[Path, int], object]:
    return lambda root, i: (root / f"{FRAME.format(i)}{suffix}").unlink()


def resize(root: Path, index: int) -> None:
    Image.new("RGB", (24, 32)).save(root / f"{FRAME.format(index)}.color.png")


FAULTS: dict[str, tuple[Callable[[Path, int], object], str, str]] = {
    "nan": (edit_pose(lambda m: m * np.nan), ".pose.txt", "nan or inf"),
    "scaled": (edit_pose(lambda m: m @ np.diag([2, 2, 2, 1])), ".pose.txt", "divide its 3x3"),
    "mirror": (edit_pose(lambda m: m @ np.diag([1, 1, -1, 1])), ".pose.txt", "mirror"),
    "transposed": (edit_pose(lambda m: m.T), ".pose.txt", "transposed"),
    "three rows": (edit_pose(lambda m: m[:3]), ".pose.txt", "12 numbers, expected 16"),
    "pose pointer": (pointer(".pose.txt"), ".pose.txt", "git lfs pull"),
    "image pointer": (pointer(".color.png"), ".color.png", "git lfs pull"),
    "depth pointer": (pointer(".depth.png"), ".depth.png", "git lfs pull"),
    "no pose": (remove(".pose.txt"), ".pose.txt", "no such file"),
    "no image": (remove(".color.png"), ".color.png", "no such file"),
    "other size": (resize, ".color.png", "24x32 pixels, .*camera.json says 32x24"),
}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Poses, camera, images, depth maps and points come back as they were."""
    write_seven_scenes(tmp_path / "scene")
    scene, truth = seven_scenes.read(tmp_path / "scene"), small_scene()
    assert scene.camera == truth.camera
    assert [f.name for f in scene.train] == [f.name for f in truth.train]
    assert [f.name for f in scene.test] == [f.name for f in truth.test]
    for name, pose in by_name(truth).items():
        torch.testing.assert_close(by_name(scene)[name], pose, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(image_of(scene.test[1]), truth.test[1].image)
    assert scene.train[3].depth == tmp_path / "scene/seq-01/frame-000003.depth.png"
    assert scene.points is not None
    assert truth.points is not None
    torch.testing.assert_close(scene.points.xyz, truth.points.xyz, rtol=0, atol=1e-5)
    assert torch.equal(scene.points.rgb, truth.points.rgb)


def test_colour_may_be_jpeg_and_depth_is_optional(tmp_path: Path) -> None:
    """Some copies hold .color.jpg, and depth for no frame or some frames."""
    root = tmp_path / "scene"
    write_seven_scenes(root)
    for path in sorted(root.glob("seq-*/*.color.png")):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    (root / "seq-01/frame-000003.depth.png").unlink()
    shutil.rmtree(root / "sparse")
    scene = seven_scenes.read(root)
    assert scene.train[3].image == root / "seq-01/frame-000003.color.jpg"
    assert [frame.depth is None for frame in scene.train] == [i == 3 for i in range(6)]
    assert scene.points is None


def test_original_images_need_no_camera_file(tmp_path: Path) -> None:
    """640x480 has known intrinsics; another size without camera.json is refused."""
    root = tmp_path / "scene"
    write_seven_scenes(root)
    (root / "camera.json").unlink()
    with pytest.raises(DataError, match=r"camera\.json: no such file, .* is 32x24, not the orig"):
        seven_scenes.read(root)
    for path in root.glob("seq-*/*.depth.png"):
        path.unlink()
    for path in root.glob("seq-*/*.color.png"):
        Image.new("RGB", (640, 480)).save(path)
    assert seven_scenes.read(root).camera == seven_scenes.KNOWN_CAMERA


@given(fault=st.sampled_from(sorted(FAULTS)), index=st.integers(0, 5))
def test_one_broken_file_is_named(fault: str, index: int) -> None:
    """One fault in one file is one error with that file's name."""
    change, suffix, expected = FAULTS[fault]
    with folder(write_seven_scenes) as root:
        change(root, index)
        with pytest.raises(DataError, match=expected) as caught:
            seven_scenes.read(root)
        assert str(caught.value).startswith(f"{root}/{FRAME.format(index)}{suffix}: ")


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ("sequence1", "sequence1", "TestSplit.txt: seq-01 is also in TrainSplit.txt"),
        ("sequence1", "", "TestSplit.txt: empty"),
        ("chess", "sequence2", "TrainSplit.txt: 'chess'; accepted are"),
        ("sequence1", "sequence3", "seq-03: no frame-.*.color.png"),
        (None, "sequence2", "TrainSplit.txt: no such file"),
        (LFS_POINTER, "sequence2", "TrainSplit.txt: a Git-LFS pointer"),
    ],
)
def test_broken_splits_are_named(
    tmp_path: Path, train: str | None, test: str, expected: str
) -> None:
    """Overlapping, empty, unreadable and dangling splits are refused."""
    root = tmp_path / "scene"
    write_seven_scenes(root)
    for part, lines in (("Train", train), ("Test", test)):
        (root / f"{part}Split.txt").unlink()
        if lines is not None:
            (root / f"{part}Split.txt").write_text(lines)
    with pytest.raises(DataError, match=expected):
        seven_scenes.read(root)


def test_a_sequence_still_packed_says_so(tmp_path: Path) -> None:
    """7-Scenes ships its sequences as archives."""
    root = tmp_path / "scene"
    write_seven_scenes(root)
    shutil.move(root / "seq-02", tmp_path / "away")
    (root / "seq-02.zip").touch()
    with pytest.raises(DataError, match=r"seq-02: .*unpack seq-02\.zip"):
        seven_scenes.read(root)


def test_millimetres_are_refused(tmp_path: Path) -> None:
    """A room of hundreds of metres is a unit error."""
    root = tmp_path / "scene"
    write_seven_scenes(root)
    for path in root.glob("seq-*/*.pose.txt"):
        np.savetxt(path, np.loadtxt(path) * np.array([[1, 1, 1, 1000]] * 3 + [[1] * 4]))
    with pytest.raises(DataError, match=r"span \d+ m, .*millimetres\? Divide"):
        seven_scenes.read(root)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"fx": None}, "'fx' is missing"),
        ({"cx": "16"}, "'cx' is '16'"),
        ({"model": "OPENCV"}, "model 'OPENCV'; only PINHOLE"),
        ({"width": 64, "height": 48}, "32x24 pixels, .*camera.json says 64x48"),
    ],
)
def test_a_broken_camera_file_is_named(tmp_path: Path, values: dict, expected: str) -> None:
    """Missing keys, text, other models and sizes that do not match."""
    root = tmp_path / "scene"
    write_seven_scenes(root)
    edit_json(root / "camera.json", **values)
    with pytest.raises(DataError, match=rf"camera\.json.*{expected}|{expected}"):
        seven_scenes.read(root)
