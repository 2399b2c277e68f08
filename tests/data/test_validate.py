"""What no scene may have: each fault is one error that names the file and the fix."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from rap.camera import Camera
from rap.data import validate
from rap.geometry import orthonormality_error, rigid, rotation_from_vector
from rap.scene import DataError, Scene
from tests.data.folders import LFS_POINTER, folder, small_scene

CAMERA = Camera(500.0, 510.0, 320.0, 240.0, 640, 480)


def some_poses(num: int, seed: int) -> Tensor:
    """Random rotations and translations of a few metres."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2, num, 3, generator=generator, dtype=torch.float64)
    return rigid(rotation_from_vector(3 * vectors[0]), 5 * vectors[1])


def edited(index: int, edit: Callable[[Tensor], object], num: int = 5) -> Tensor:
    matrices = some_poses(num, seed=index)
    edit(matrices[index])
    return matrices


def assign(*where: int | slice, value: float) -> Callable[[Tensor], object]:
    return lambda pose: pose[where].fill_(value)


POSE_FAULTS: dict[str, Callable[[Tensor], object]] = {
    "nan or inf": assign(0, 0, value=float("nan")),
    "holds nan or inf": assign(2, 3, value=float("inf")),
    "last row": lambda pose: pose.copy_(pose.mT.clone()),
    "beyond 1e+06": assign(1, 3, value=-2e6),
    "mirror": lambda pose: pose[:3, 2].neg_(),
    "divide its 3x3 part by 1000": lambda pose: pose[:3, :3].mul_(1000.0),
    "divide its 3x3 part by 0.99": lambda pose: pose[:3, :3].mul_(0.99),
    "is not a rotation": lambda pose: pose[:3, 0].mul_(1.01),
    "is not a rotation: R": lambda pose: pose[:3, :3].zero_(),
}


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("fx", 0, "focal lengths must be positive and finite"),
        ("fy", -500, "focal lengths must be positive and finite"),
        ("width", 0, "an image of 0x480 pixels; width and height must be at least 1"),
        ("height", -480, "an image of 640x-480 pixels; width and height must be at least 1"),
        ("cx", 700, "the principal point (700, 240) lies outside the 640x480 image"),
    ],
)
def test_impossible_intrinsics_are_refused(
    tmp_path: Path, key: str, value: float, fault: str
) -> None:
    """A camera.json alone, without a scene, is checked as a scene's is."""
    path = tmp_path / "camera.json"
    path.write_text(json.dumps({**asdict(CAMERA), key: value}))
    with pytest.raises(DataError, match=re.escape(fault)) as caught:
        validate.read_camera(path)
    assert str(caught.value).startswith(f"{path}: ")


@given(seed=st.integers(0, 1000), num=st.integers(0, 6))
def test_rigid_poses_pass_unchanged(seed: int, num: int) -> None:
    """Poses that are exact stay as they are."""
    matrices = some_poses(num, seed)
    checked = validate.checked_poses(matrices.numpy(), [f"frame {i}" for i in range(num)])
    torch.testing.assert_close(checked, matrices, rtol=0, atol=1e-12)


@given(seed=st.integers(0, 1000))
def test_rounded_rotations_become_exact(seed: int) -> None:
    """What was printed with four digits is moved to the nearest rotation."""
    matrices = some_poses(4, seed)
    rounded = matrices.clone()
    rounded[:, :3, :3] = rounded[:, :3, :3].mul(1e4).round().div(1e4)
    checked = validate.checked_poses(rounded.numpy(), list("abcd"))
    assert float(orthonormality_error(checked[:, :3, :3]).max()) < 1e-12
    torch.testing.assert_close(checked, matrices, rtol=0, atol=2e-4)


@given(fault=st.sampled_from(sorted(POSE_FAULTS)), index=st.integers(0, 4))
def test_a_broken_pose_is_named(fault: str, index: int) -> None:
    """Whatever is wrong with one pose, the error names its file and the fault."""
    matrices = edited(index, POSE_FAULTS[fault])
    with pytest.raises(DataError, match=re.escape(fault)) as caught:
        validate.checked_poses(matrices.numpy(), [f"pose-{i}.txt" for i in range(5)])
    assert str(caught.value).startswith(f"pose-{index}.txt: the pose ")


def test_many_broken_poses_are_one_error() -> None:
    """A fault of all poses is told once, with their number."""
    matrices = some_poses(5, seed=0)
    matrices[:, :3, 2] *= -1
    with pytest.raises(DataError, match=r"^a: .*\(4 more frames like it\)$"):
        validate.checked_poses(matrices.numpy(), list("abcde"))


@pytest.mark.parametrize("content", [b"", b"not an image", LFS_POINTER.encode()])
def test_what_is_not_an_image_is_named(tmp_path: Path, content: bytes) -> None:
    """Empty files, text and Git-LFS pointers are told apart from images."""
    path = tmp_path / "a.png"
    path.write_bytes(content)
    expected = "git lfs pull" if content.startswith(b"version") else "not an image"
    with pytest.raises(DataError, match=rf"a\.png: .*{expected}"):
        validate.image_size(path)


def test_an_image_size_needs_no_pixels(tmp_path: Path) -> None:
    """The header is enough: a file cut off after it has a size."""
    path = tmp_path / "a.png"
    Image.new("RGB", (31, 17)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:45])
    assert validate.image_size(path) == (31, 17)


@given(kept=st.integers(0, 30), suffix=st.sampled_from(["png", "jpg"]))
def test_an_image_cut_off_in_its_header_is_named(kept: int, suffix: str) -> None:
    """Pillow has several errors for that; ours is one."""
    with folder(lambda root: root.mkdir()) as root:
        path = root / f"a.{suffix}"
        Image.new("RGB", (31, 17)).save(path)
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(DataError, match=rf"a\.{suffix}: not an image, or cut off"):
            validate.image_size(path)


def test_a_depth_map_of_another_size_is_named(tmp_path: Path) -> None:
    """Depth maps must be as large as the photographs."""
    scene = small_scene()
    Image.new("I;16", (5, 5)).save(tmp_path / "d.png")
    frame = replace(scene.train[0], depth=tmp_path / "d.png")
    scene = replace(scene, train=(frame, *scene.train[1:]))
    with pytest.raises(DataError, match=r"d\.png: the depth map has 5x5 pixels, .* says 32x24"):
        validate.checked_scene(scene, "split.txt", "camera.json")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Missing files, pointers, other encodings and broken JSON each have their own error."""
    path = tmp_path / "a.json"
    cases = [(None, "no such file"), (LFS_POINTER.encode(), "git lfs pull"), (b"\xff", "UTF-8")]
    cases += [(b'{"a": ', "line 1 is not valid JSON"), (b"[1]", "holds a list, not a JSON object")]
    for content, expected in cases:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=rf"a\.json: .*{expected}"):
            validate.read_json(path)


@pytest.mark.parametrize("value", [None, "525", True, float("nan")])
def test_a_number_must_be_one(value: object) -> None:
    """Text, truth values, nan and nothing are not focal lengths."""
    with pytest.raises(DataError, match=r"camera\.json: 'fx' is"):
        validate.number({"fx": value}, "fx", Path("camera.json"))


@given(spread=st.floats(0.001, 0.049))
def test_similar_cameras_become_their_median(spread: float) -> None:
    """Focal lengths within 5 % are replaced by their median."""
    cameras = [replace(CAMERA, fx=500 * factor) for factor in (1 - spread, 1.0, 1.0, 1 + spread)]
    assert validate.one_camera(cameras, Path("cameras.txt")) == CAMERA


def test_similar_cameras_are_not_merged_silently(capsys: pytest.CaptureFixture[str]) -> None:
    """Using one camera for several is said in one line; a single camera needs none."""
    validate.one_camera([CAMERA, CAMERA], Path("cameras.txt"))
    assert capsys.readouterr().err == ""
    validate.one_camera([CAMERA, replace(CAMERA, fx=510.0)], Path("cameras.txt"))
    assert capsys.readouterr().err.startswith("warning: cameras.txt: 2 cameras")


def test_principal_points_are_not_merged_silently(capsys: pytest.CaptureFixture[str]) -> None:
    """The warning says how far apart they are, and what is used for all."""
    others = [replace(CAMERA, cx=332.0), replace(CAMERA, cx=321.0, cy=238.0)]
    merged = validate.one_camera([CAMERA, *others], Path("cameras.txt"))
    assert merged == replace(CAMERA, cx=321.0)
    shown = capsys.readouterr().err
    assert "principal points up to 11.0 px apart from their medians" in shown
    assert "500.0 px and (321.0, 240.0)" in shown


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (replace(CAMERA, fx=600.0), "focal lengths up to"),
        (replace(CAMERA, width=480, height=640), "2 image sizes"),
    ],
)
def test_different_cameras_are_refused(other: Camera, expected: str) -> None:
    """Cameras that differ in size or by more than 5 % in focal length are no single camera."""
    with pytest.raises(DataError, match=rf"cameras\.txt: .*{expected}"):
        validate.one_camera([CAMERA, other], Path("cameras.txt"))
    with pytest.raises(DataError, match="holds no image"):
        validate.one_camera([], Path("cameras.txt"))


def broken_scenes() -> dict[str, Callable[[Scene], Scene]]:
    """Each fault of a whole scene, by the words of its error."""

    def camera(change: Callable[[Camera], Camera]) -> Callable[[Scene], Scene]:
        return lambda s: replace(s, camera=change(s.camera))

    def still(scene: Scene) -> Scene:
        frames = [replace(f, world_from_camera=torch.eye(4).double()) for f in scene.train]
        return replace(scene, train=tuple(frames), test=(replace(frames[0], name="t"),))

    return {
        "split.txt: the training split is empty": lambda s: replace(s, train=()),
        "split.txt: the test split is empty": lambda s: replace(s, test=()),
        "split.txt: 2 frames are in both": lambda s: replace(s, test=s.train[:2]),
        "occurs twice": lambda s: replace(s, test=(s.test[0], s.test[0])),
        "camera.json: .* positive and finite": camera(lambda c: replace(c, fx=-1.0)),
        "camera.json: .* finite": camera(lambda c: replace(c, fy=float("nan"))),
        "camera.json: .* field of view of": camera(lambda c: replace(c, fx=1e5)),
        "camera.json: .* principal point": camera(lambda c: replace(c, cy=100.0)),
        "all cameras stand at one point": still,
        "the image has 32x24 pixels, camera.json says 64x48": camera(
            lambda c: replace(c, width=64, height=48)
        ),
    }


@pytest.mark.parametrize("fault", broken_scenes())
def test_a_broken_scene_is_refused(fault: str) -> None:
    """Splits, names, intrinsics, sizes and extent are each checked."""
    with pytest.raises(DataError, match=fault):
        validate.checked_scene(broken_scenes()[fault](small_scene()), "split.txt", "camera.json")


def test_a_good_scene_passes() -> None:
    """The room has none of these faults."""
    scene = small_scene()
    assert validate.checked_scene(scene, "split.txt", "camera.json") is scene
