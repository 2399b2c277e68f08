"""COLMAP models, text and binary: what is read, how they are split, what is refused."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rap.data import colmap, colmap_model
from rap.scene import DataError, Scene
from tests.data.folders import (
    LFS_POINTER,
    folder,
    plain_name,
    small_scene,
    write_colmap,
    write_images,
    write_seven_scenes,
)

TRAIN = [plain_name(frame) for frame in small_scene().train]
TEST = [plain_name(frame) for frame in small_scene().test]
CAMERA = small_scene().camera


def assert_same(scene: Scene, atol: float = 1e-9) -> None:
    """The scene is the one that was written."""
    truth = small_scene()
    assert [frame.name for frame in scene.train] == TRAIN
    assert [frame.name for frame in scene.test] == TEST
    pairs = zip((*scene.train, *scene.test), (*truth.train, *truth.test), strict=True)
    for found, expected in pairs:
        torch.testing.assert_close(
            found.world_from_camera, expected.world_from_camera, rtol=0, atol=atol
        )
    assert scene.points is not None
    assert truth.points is not None
    torch.testing.assert_close(scene.points.xyz, truth.points.xyz)
    assert torch.equal(scene.points.rgb, truth.points.rgb)


@pytest.mark.parametrize("binary", [False, True])
def test_what_was_written_is_read(tmp_path: Path, binary: bool) -> None:
    """Poses, points, and the camera with its principal point, with 2D tracks skipped."""
    write_colmap(tmp_path / "scene", binary)
    scene = colmap.read(tmp_path / "scene")
    assert_same(scene)
    assert scene.camera == CAMERA
    assert scene.train[0].image == tmp_path / "scene/images" / f"{TRAIN[0]}.png"


@pytest.mark.parametrize("binary", [False, True])
def test_simple_pinhole_has_one_focal_length(tmp_path: Path, binary: bool) -> None:
    """SIMPLE_PINHOLE is f, cx, cy."""
    write_colmap(tmp_path / "scene", binary, model="SIMPLE_PINHOLE")
    assert colmap.read(tmp_path / "scene").camera == replace(CAMERA, fy=CAMERA.fx)


@pytest.mark.parametrize("binary", [False, True])
def test_distortion_is_refused_with_the_command(tmp_path: Path, binary: bool) -> None:
    """The error is the way out: the command that undistorts."""
    write_colmap(tmp_path / "scene", binary, model="OPENCV")
    with pytest.raises(DataError, match=r"cameras\.\w+: .*OPENCV.*colmap image_undistorter --ima"):
        colmap.read(tmp_path / "scene")


def test_similar_cameras_become_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Within 5 % the median is taken, and said; beyond, and for other sizes, it is refused."""
    write_colmap(tmp_path / "a", cameras=[CAMERA, replace(CAMERA, fx=1.02 * CAMERA.fx)])
    assert colmap.read(tmp_path / "a").camera.fx == pytest.approx(1.01 * CAMERA.fx)
    assert "cameras.txt: 2 cameras" in capsys.readouterr().err
    write_colmap(tmp_path / "b", cameras=[CAMERA, replace(CAMERA, fx=1.2 * CAMERA.fx)])
    with pytest.raises(DataError, match=r"b/sparse/0/cameras\.txt: 2 cameras"):
        colmap.read(tmp_path / "b")
    write_colmap(tmp_path / "c", cameras=[CAMERA, replace(CAMERA, width=24, height=32)])
    with pytest.raises(DataError, match=r"c/sparse/0/cameras\.txt: 2 image sizes \(24x32, 32x24"):
        colmap.read(tmp_path / "c")


def test_a_model_may_lie_beside_a_seven_scenes_folder(tmp_path: Path) -> None:
    """Without images/, names count from the folder itself; every 8th of the names is a test."""
    write_seven_scenes(tmp_path / "scene")
    scene = colmap.read(tmp_path / "scene")
    assert [f.name for f in scene.test] == ["seq-01/frame-000000.color"]
    assert len(scene.train) == 7


def listed(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize(
    ("file", "content", "train", "test"),
    [
        ("list_test.txt", listed("01_000002.png", "02_000001.png"), 6, 2),
        ("a.tsv", listed("filename\tid\tsplit\tdataset", *(
            f"01_00000{i}.png\t{i}\t{'test' if i == 4 else 'train'}\tbox" for i in range(5)
        )), 4, 1),
        ("unrelated.txt", "", 7, 1),
    ],
)  # fmt: skip
def test_splits_by_file(tmp_path: Path, file: str, content: str, train: int, test: int) -> None:
    """Test lists, tables as of photo-tourism sets, and every 8th name where there is neither."""
    root = tmp_path / "scene"
    write_colmap(root)
    for part in ("train", "test"):
        (root / f"{part}.txt").unlink()
    (root / file).write_text(content)
    scene = colmap.read(root)
    assert (len(scene.train), len(scene.test)) == (train, test)
    assert not {f.name for f in scene.train} & {f.name for f in scene.test}


def test_names_without_a_pose_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """COLMAP does not place every photograph; frames in neither list are left out, too."""
    root = tmp_path / "scene"
    write_colmap(root)
    (root / "train.txt").write_text(listed("lost.png", "01_000001.png", "01_000002.png"))
    assert [f.name for f in colmap.read(root).train] == ["01_000001", "01_000002"]
    assert "train.txt: 1 of 3 names have no pose" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ("01_000000.png", "01_000000.png", "test.txt: 1 frames are in both splits, '01_000000'"),
        ("01_000000.png", "", "test.txt: the test split is empty"),
        ("images/01_000000.png", "02_000000.png", "train.txt: none of its 1 names is in"),
        (LFS_POINTER, "02_000000.png", "train.txt: a Git-LFS pointer"),
    ],
)
def test_broken_splits_are_named(tmp_path: Path, train: str, test: str, expected: str) -> None:
    """Overlapping and empty splits, and lists that name other images."""
    root = tmp_path / "scene"
    write_colmap(root)
    (root / "train.txt").write_text(train)
    (root / "test.txt").write_text(test)
    with pytest.raises(DataError, match=expected):
        colmap.read(root)


def test_a_table_needs_its_columns(tmp_path: Path) -> None:
    """A .tsv without filename and split is no split."""
    root = tmp_path / "scene"
    write_colmap(root)
    (root / "train.txt").unlink()
    (root / "a.tsv").write_text("name\tpart\na.png\ttrain\n")
    with pytest.raises(DataError, match=r"a\.tsv: expected tab-separated columns"):
        colmap.read(root)


@given(stem=st.sampled_from(["cameras", "images", "points3D"]), data=st.data())
def test_a_truncated_binary_file_is_named(stem: str, data: st.DataObject) -> None:
    """Cut off anywhere, a binary file ends in one error with its name."""
    with folder(lambda root: write_colmap(root, binary=True)) as root:
        path = root / "sparse/0" / f"{stem}.bin"
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(DataError, match=rf"{stem}\.bin: ends inside .*copy it again"):
            colmap.read(root)


def set_field(stem: str, line: int, field: int, value: str) -> Callable[[Path], None]:
    """Replace one field of a text file; lines count from the first that is no comment."""

    def change(folder: Path) -> None:
        path = folder / f"{stem}.txt"
        lines = path.read_text().splitlines()
        index = line + sum(text.startswith("#") for text in lines)
        words = lines[index].split()
        words[field] = value
        lines[index] = " ".join(words)
        path.write_text("\n".join(lines) + "\n")

    return change


def zero_quaternion(folder: Path) -> None:
    for field in (1, 2, 3, 4):
        set_field("images", 0, field, "0")(folder)


def without_tracks(path: Path, every: bool) -> None:
    """images.txt as some tools write it: no line of 2D points where there are none, or nowhere."""
    lines = path.read_text().splitlines()
    kept = [text for text in lines if text and not (every and text == "1.5 2.5 7 3.5 4.5 -1")]
    path.write_text("\n".join(kept) + "\n")


@pytest.mark.parametrize("every", [False, True])
def test_lines_of_points_may_be_missing(tmp_path: Path, every: bool) -> None:
    """No photograph is taken for the 2D points of the one before it."""
    write_colmap(tmp_path / "scene")
    without_tracks(tmp_path / "scene/sparse/0/images.txt", every)
    assert_same(colmap.read(tmp_path / "scene"))


def test_points_are_not_taken_for_a_photograph(tmp_path: Path) -> None:
    """Twelve numbers after a photograph are four points, although they would parse as a pose."""
    write_colmap(tmp_path / "scene")
    path = tmp_path / "scene/sparse/0/images.txt"
    track = "1 0.9 0.1 0.1 0.1 1 2 3 1 4.5 5.5 6"
    path.write_text(path.read_text().replace("1.5 2.5 7 3.5 4.5 -1", track))
    assert_same(colmap.read(tmp_path / "scene"))


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("suffix", ["txt", "bin"])
def test_a_model_without_images_is_named(tmp_path: Path, suffix: str, split: bool) -> None:
    """Comments only, or a count of zero."""
    root = tmp_path / "scene"
    write_colmap(root, binary=suffix == "bin")
    (root / f"sparse/0/images.{suffix}").write_bytes(b"# none\n" if suffix == "txt" else bytes(8))
    if not split:
        (root / "train.txt").unlink()
    with pytest.raises(DataError, match=rf"images\.{suffix}: holds no image"):
        colmap.read(root)


def test_an_image_without_a_name_is_named(tmp_path: Path) -> None:
    """A binary file can hold an empty name."""
    root = tmp_path / "scene"
    write_colmap(root, binary=True)
    path = root / "sparse/0/images.bin"
    path.write_bytes(path.read_bytes().replace(b"01_000002.png\0", b"\0"))
    with pytest.raises(DataError, match=r"images\.bin: image 3 of 8 has no name"):
        colmap.read(root)


FAULTS: dict[str, Callable[[Path], object]] = {
    r"images\.txt: 01_000001\.png: the pose holds nan": set_field("images", 2, 5, "nan"),
    r"images\.txt: line 5 is .*; expected IMAGE_ID QW": set_field("images", 2, 5, "x"),
    r"images\.txt: 01_000001\.png names camera 9": set_field("images", 2, 8, "9"),
    r"images/gone\.png: no such image": set_field("images", 2, 9, "gone.png"),
    r"cameras\.txt: line 2 is .*; expected CAMERA_ID": set_field("cameras", 0, 2, "wide"),
    r"cameras\.txt: an image of 9{400}x24 pixels": set_field("cameras", 0, 2, "9" * 400),
    r"cameras\.txt: a PINHOLE camera with 3 param": set_field("cameras", 0, -1, ""),
    r"cameras\.txt: a camera of model FISHEYE": set_field("cameras", 0, 1, "FISHEYE"),
    r"points3D\.txt: point 3 of \d+ is not finite": set_field("points3D", 3, 2, "inf"),
    r"points3D\.txt: line 5 is .*; expected POINT3D": set_field("points3D", 3, 2, "x"),
    r"images\.txt: 01_000000\.png: the pose holds nan": zero_quaternion,
    r"cameras\.bin or \.txt: no such file": lambda f: (f / "cameras.txt").unlink(),
    r"cameras\.txt: a Git-LFS": lambda f: (f / "cameras.txt").write_text(LFS_POINTER),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_text_file_is_named(tmp_path: Path, fault: str) -> None:
    """Values that are no numbers or not finite, dangling names, missing files."""
    root = tmp_path / "scene"
    write_colmap(root)
    for part in ("train", "test"):
        (root / f"{part}.txt").unlink()
    FAULTS[fault](root / "sparse/0")
    with pytest.raises(DataError, match=fault):
        colmap.read(root)


def test_an_unknown_binary_camera_model_is_named(tmp_path: Path) -> None:
    """Numbers beyond the known models are not guessed at."""
    root = tmp_path / "scene"
    write_colmap(root, binary=True)
    path = root / "sparse/0/cameras.bin"
    content = path.read_bytes()
    path.write_bytes(content[:12] + (77).to_bytes(4, "little") + content[16:])
    with pytest.raises(DataError, match=r"cameras\.bin: camera 1 has the unknown model 77"):
        colmap.read(root)


def test_a_model_without_points_has_none(tmp_path: Path) -> None:
    """points3D may be absent or empty; the model may lie in sparse/ itself."""
    root = tmp_path / "scene"
    write_colmap(root)
    (root / "sparse/0/points3D.txt").write_text("# nothing\n")
    assert colmap.read(root).points is None
    (root / "sparse/0/points3D.txt").unlink()
    for path in (root / "sparse/0").iterdir():
        shutil.move(path, root / "sparse" / path.name)
    assert colmap.read(root).points is None


def test_a_folder_without_a_model_is_no_colmap_folder(tmp_path: Path) -> None:
    """Detection needs images.bin or images.txt."""
    write_images(tmp_path, small_scene())
    assert not colmap.detect(tmp_path)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: no images.bin or images.txt")):
        colmap.read(tmp_path)
    assert colmap_model.find_points(tmp_path) is None
