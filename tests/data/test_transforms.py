"""`transforms.json`: axes, intrinsics, splits, points, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rap.data import transforms
from rap.scene import DataError
from tests.data import folders
from tests.data.folders import (
    LFS_POINTER,
    edit_json,
    folder,
    plain_name,
    small_scene,
    write_images,
    write_model,
    write_transforms,
)

NAMES = [f"images/{plain_name(f)}" for f in (*small_scene().train, *small_scene().test)]


def write_single(root: Path, **values: object) -> None:
    """One transforms.json with all frames, and changes to it."""
    scene = small_scene()
    write_images(root, scene)
    content = folders.transforms((*scene.train, *scene.test), scene.camera)
    (root / "transforms.json").write_text(json.dumps(content))
    edit_json(root / "transforms.json", **values)


def edit_frame(root: Path, index: int, **values: object) -> None:
    """Set keys of one frame of transforms_train.json."""
    path = root / "transforms_train.json"
    content = json.loads(path.read_text())
    content["frames"][index].update(values)
    path.write_text(json.dumps(content))


def test_opengl_axes_become_opencv_axes(tmp_path: Path) -> None:
    """A camera at the origin that looks along -z, y up, looks along +z, y down, turned about x."""
    write_transforms(tmp_path)
    edit_frame(tmp_path, 0, transform_matrix=torch.eye(4).tolist())
    frame = transforms.read(tmp_path).train[0]
    expected = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    assert torch.equal(frame.world_from_camera, expected)


def test_a_pair_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Poses, names, camera and split."""
    write_transforms(tmp_path)
    scene, truth = transforms.read(tmp_path), small_scene()
    assert [f.name for f in (*scene.train, *scene.test)] == NAMES
    assert (len(scene.train), scene.camera) == (6, truth.camera)
    for found, expected in zip(scene.train, truth.train, strict=True):
        torch.testing.assert_close(
            found.world_from_camera, expected.world_from_camera, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize(
    ("values", "files", "num_train"),
    [
        ({}, {}, 7),
        ({}, {"train.txt": "01_000001.png\n", "test.txt": "01_000002.png\n"}, 1),
        ({"train_filenames": ["./images/01_000004.png", "images/01_000003.png"],
          "test_filenames": ["images/02_000001.png"]}, {}, 2),
    ],
)  # fmt: skip
def test_a_single_file_is_split(
    tmp_path: Path, values: dict, files: dict[str, str], num_train: int
) -> None:
    """By its own lists, by lists beside it, or every 8th name."""
    write_single(tmp_path, **values)
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    scene = transforms.read(tmp_path)
    assert (len(scene.train), len(scene.test)) == (num_train, 1)


def test_field_of_view_stands_for_focal_length(tmp_path: Path) -> None:
    """camera_angle_x alone means square pixels; size and centre come from the images."""
    camera = small_scene().camera
    angle = 2 * torch.atan(torch.tensor(camera.width / (2 * camera.fx)).double()).item()
    missing = dict.fromkeys(("w", "h", "fl_x", "fl_y", "cx", "cy"))
    write_single(tmp_path, camera_angle_x=angle, **missing)
    read = transforms.read(tmp_path).camera
    assert read == replace(camera, fx=read.fx, fy=read.fx, cx=16.0, cy=12.0)
    assert read.fx == pytest.approx(camera.fx)


def test_frames_may_have_their_own_intrinsics(tmp_path: Path) -> None:
    """As nerfstudio allows; they are merged within 5 %, and refused beyond."""
    write_transforms(tmp_path)
    fx = small_scene().camera.fx
    edit_frame(tmp_path, 3, fl_x=1.02 * fx)
    assert transforms.read(tmp_path).camera.fx == pytest.approx(fx)
    edit_frame(tmp_path, 3, fl_x=1.2 * fx)
    with pytest.raises(DataError, match=r"transforms_train\.json: 2 cameras, focal lengths"):
        transforms.read(tmp_path)


def test_names_may_lack_their_suffix(tmp_path: Path) -> None:
    """Blender writes `images/01_000000`."""
    write_transforms(tmp_path)
    edit_frame(tmp_path, 0, file_path="./images/01_000000")
    assert transforms.read(tmp_path).train[0].image == tmp_path / "images/01_000000.png"
    edit_frame(tmp_path, 0, file_path="./images/gone")
    with pytest.raises(DataError, match=r"images/gone: no such image, with or without \.png"):
        transforms.read(tmp_path)


def test_points_are_taken_only_from_the_same_world(tmp_path: Path) -> None:
    """The world may have been moved, as by nerfstudio, from that of the model beside the file."""
    scene = small_scene()
    write_transforms(tmp_path)
    (tmp_path / "sparse/0").mkdir(parents=True)
    write_model(tmp_path / "sparse/0", scene, [scene.camera], "OPENCV", binary=False)
    points = transforms.read(tmp_path).points
    assert points is not None
    assert scene.points is not None
    torch.testing.assert_close(points.xyz, scene.points.xyz)
    for index, frame in enumerate(scene.train):
        moved = frame.world_from_camera @ folders.OPENGL
        moved[:3, 3] *= 1.1
        edit_frame(tmp_path, index, transform_matrix=moved.tolist())
    assert transforms.read(tmp_path).points is None


MATRIX = small_scene().train[0].world_from_camera @ folders.OPENGL


def scaled(columns: list[float]) -> list[list[float]]:
    return (MATRIX * torch.tensor(columns)).tolist()


FRAME_FAULTS: dict[str, tuple[str, object]] = {
    "the pose holds nan or inf": ("transform_matrix", scaled([float("nan")] * 4)),
    "the pose is left-handed": ("transform_matrix", scaled([1, 1, -1, 1])),
    "divide its 3x3 part by 3": ("transform_matrix", scaled([3, 3, 3, 1])),
    "is the matrix transposed": ("transform_matrix", MATRIX.mT.tolist()),
    "must be 4 rows of 4 numbers": ("transform_matrix", MATRIX[:, :3].tolist()),
    "'transform_matrix' must be 4 rows": ("transform_matrix", None),
    "something that is not a number": ("transform_matrix", [["a"] * 4] * 4),
    "the pose holds nan or inf: ": ("transform_matrix", [[-(10**400)] * 4] * 4),
}  # fmt: skip


@given(fault=st.sampled_from(sorted(FRAME_FAULTS)), index=st.integers(0, 5))
def test_a_broken_frame_is_named(fault: str, index: int) -> None:
    """One error names the file, the frame and the fault."""
    key, value = FRAME_FAULTS[fault]
    with folder(write_transforms) as root:
        edit_frame(root, index, **{key: value})
        with pytest.raises(DataError, match=fault) as caught:
            transforms.read(root)
        name = f"./images/{plain_name(small_scene().train[index])}.png"
        assert str(caught.value).startswith(f"{root}/transforms_train.json: {name}: ")


FILE_FAULTS: dict[str, dict[str, object]] = {
    r"distorted \(k1 = 0\.1\).*colmap image_undistorter": {"k1": 0.1},
    r"distorted \(camera model OPENCV_FISHEYE\)": {"camera_model": "OPENCV_FISHEYE"},
    r"distorted \(camera model fisheye\)": {"is_fisheye": True},
    "neither 'fl_x' nor 'camera_angle_x'": {"fl_x": None},
    "'fl_x' is '477'": {"fl_x": "477"},
    "'camera_angle_x' is 40; accepted are radians": {"fl_x": None, "camera_angle_x": 40},
    "'frames' must be a list": {"frames": None},
    "holds no image": {"frames": []},
    "a frame has file_path 3": {"frames": [{"file_path": 3}]},
    "a frame has file_path ''; it must be the path": {"frames": [{"file_path": ""}]},
    "a frame has file_path './'": {"frames": [{"file_path": "./"}]},
    "'frames' is empty, it holds no image": {
        "frames": [],
        "train_filenames": ["a.png"],
        "test_filenames": ["b.png"],
    },
    "'train_filenames' must be a list of names, 1 is none": {
        "train_filenames": [1, 2],
        "test_filenames": ["images/02_000001.png"],
    },
    "'w' is 1000.*0000; it must be a finite": {"w": 10**400},
    "32x24 pixels, .*transforms.json says 24x32": {"w": 24, "h": 32},
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_a_broken_file_is_named(tmp_path: Path, fault: str) -> None:
    """Distortion, missing or impossible intrinsics, no frames, and sizes that do not match."""
    write_single(tmp_path, **FILE_FAULTS[fault])
    with pytest.raises(DataError, match=rf"transforms\.json.*{fault}|{fault}"):
        transforms.read(tmp_path)


def overlap(root: Path) -> None:
    (root / "transforms_test.json").write_text((root / "transforms_train.json").read_text())


PAIR_FAULTS: dict[str, Callable[[Path], object]] = {
    r"transforms_test\.json: no such file": lambda r: (r / "transforms_test.json").unlink(),
    r"transforms_test\.json: 6 frames are in both splits": overlap,
    r"transforms_train\.json: a Git-LFS pointer": lambda r: (
        r / "transforms_train.json"
    ).write_text(LFS_POINTER),
    r"transforms_test\.json: the test split is empty": lambda r: edit_json(
        r / "transforms_test.json", frames=[]
    ),
    r"transforms_test\.json: line 1 is not valid JSON": lambda r: (
        r / "transforms_test.json"
    ).write_text("{"),
}


@pytest.mark.parametrize("fault", PAIR_FAULTS)
def test_a_broken_pair_is_named(tmp_path: Path, fault: str) -> None:
    """Missing, overlapping, empty and unreadable files."""
    write_transforms(tmp_path)
    PAIR_FAULTS[fault](tmp_path)
    with pytest.raises(DataError, match=fault):
        transforms.read(tmp_path)


@pytest.mark.parametrize("content", ['{"w": ' + "9" * 5000 + "}", '{"w": ' + "[" * 100_000])
def test_json_beyond_what_python_reads_is_named(tmp_path: Path, content: str) -> None:
    """A number of 5000 digits and 100 000 brackets are refused as other broken files are."""
    (tmp_path / "transforms.json").write_text(content)
    with pytest.raises(DataError, match=r"transforms\.json: cannot be read as JSON"):
        transforms.read(tmp_path)


@pytest.mark.parametrize("lists", [True, False])
def test_an_image_that_is_named_twice_is_refused(tmp_path: Path, lists: bool) -> None:
    """Of two poses of one photograph neither is dropped silently."""
    names = {"train_filenames": NAMES[:2], "test_filenames": NAMES[-1:]}
    names = {key: [f"{name}.png" for name in part] for key, part in names.items()}
    write_single(tmp_path, **(names if lists else {}))
    path = tmp_path / "transforms.json"
    frames = json.loads(path.read_text())["frames"]
    again = {**frames[3], "file_path": "images/01_000001.png"}
    edit_json(path, frames=[*frames, again])
    with pytest.raises(DataError, match=r"names the image 'images/01_000001\.png' twice"):
        transforms.read(tmp_path)
