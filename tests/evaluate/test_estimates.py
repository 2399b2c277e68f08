"""Pose files: what is written is read back, and other tools' files mean what they say."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rap.evaluate.estimates import read_estimates, write_colmap, write_pose_files, write_tum
from rap.geometry import rigid, rotation_from_vector
from rap.scene import DataError

NAMES = [f"seq-02/frame-{index:06d}" for index in range(4)]
HALF_TURN = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64))


def _poses(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2, len(NAMES), 3, generator=generator, dtype=torch.float64)
    return rigid(rotation_from_vector(2 * vectors[0]), 3 * vectors[1])


def _write(kind: str, folder: Path, poses: Tensor) -> Path:
    if kind == "pose files":
        write_pose_files(folder / "poses", NAMES, poses)
        return folder / "poses"
    path = folder / "poses.txt"
    if kind == "tum":
        write_tum(path, poses)
    else:
        write_colmap(path, [f"{name}.color.png" for name in NAMES], poses)
    return path


@pytest.mark.parametrize("kind", ["pose files", "tum", "colmap"])
@given(seed=st.integers(0, 2**31))
def test_round_trip(kind: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Poses come back as they were written, to nine digits."""
    poses = _poses(seed)
    path = _write(kind, tmp_path_factory.mktemp("poses"), poses)
    torch.testing.assert_close(read_estimates(path, NAMES), poses, atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", ["pose files", "tum", "colmap"])
def test_failed_frames_are_left_out_and_read_as_missing(kind: str, tmp_path: Path) -> None:
    """A non-finite pose is not written, and a frame without an estimate reads as nan."""
    poses = _poses()
    poses[1, 0, 3] = torch.nan
    path = _write(kind, tmp_path, poses)
    read = read_estimates(path, NAMES)
    assert torch.isnan(read[1]).any()
    assert torch.isfinite(read[[0, 2, 3]]).all()


def test_tum_line_by_hand(tmp_path: Path) -> None:
    """TUM: index, camera centre, quaternion xyzw of world_from_camera."""
    pose = HALF_TURN.clone()
    pose[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    write_tum(tmp_path / "a.tum", pose[None])
    words = (tmp_path / "a.tum").read_text().split()
    assert [float(word) for word in words] == [0, 1, 2, 3, 0, 1, 0, 0]


def test_colmap_line_by_hand(tmp_path: Path) -> None:
    """COLMAP: camera_from_world as wxyz and translation, then camera, name and an empty line."""
    pose = HALF_TURN.clone()
    pose[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    write_colmap(tmp_path / "images.txt", ["a.png"], pose[None])
    lines = (tmp_path / "images.txt").read_text().splitlines()
    assert lines[1].split() == ["1", "0", "0", "1", "0", "1", "-2", "3", "1", "a.png"]
    assert lines[2] == ""


def test_colmap_with_points_and_visloc_lines_agree(tmp_path: Path) -> None:
    """2D points between COLMAP's entries and extra columns after a visloc pose change nothing."""
    quat = "0.5 0.5 0.5 0.5 1.0 -2.0 0.25"
    colmap, visloc = tmp_path / "images.txt", tmp_path / "estimates.txt"
    colmap.write_text(
        f"# header\n7 {quat} 1 {NAMES[2]}.color.png\n1.5 2.5 -1 3.5 4.5 8 9 9 -1\n"
        f"9 {quat} 1 {NAMES[3]}.jpg\n3.5 4.5 8\n"
    )
    visloc.write_text(f"{NAMES[2]}.color.png {quat} 525.0\n{NAMES[3]} {quat} 525.0 0.1 12\n")
    from_colmap, from_visloc = (read_estimates(path, NAMES) for path in (colmap, visloc))
    torch.testing.assert_close(from_colmap, from_visloc, equal_nan=True)
    expected = torch.tensor([[0, 1, 0, 2.0], [0, 0, 1, -0.25], [1, 0, 0, -1], [0, 0, 0, 1]])
    torch.testing.assert_close(from_colmap[2], expected.double())
    assert torch.isnan(from_colmap[:2]).all()


@pytest.mark.parametrize("rest", ["", " 525.0"])
def test_visloc_lines_of_frames_that_are_named_by_numbers(rest: str, tmp_path: Path) -> None:
    """A number that is a frame's name is no timestamp, which `.tum` files always hold."""
    names = ["0", "000010", "000020"]
    path = tmp_path / "estimates.txt"
    path.write_text("".join(f"{name} 1 0 0 0 -1 -2 -3{rest}\n" for name in names[::-1]))
    read = read_estimates(path, names)
    assert read[:, :3, 3].tolist() == [[1.0, 2.0, 3.0]] * 3
    write_tum(tmp_path / "poses.tum", read[:1])
    torch.testing.assert_close(read_estimates(tmp_path / "poses.tum", names)[0], read[0])


def test_zero_quaternion_is_a_failure_not_the_identity(tmp_path: Path) -> None:
    """The all-zero line that some tools write for a lost frame counts as missing."""
    path = tmp_path / "estimates.txt"
    path.write_text(f"{NAMES[0]} 0 0 0 0 0 0 0\n")
    assert torch.isnan(read_estimates(path, NAMES)[0, :3, :3]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it holds no pose"),
        ("other/frame 1 0 0 0 0 0 0\n", "it names other/frame, the frames are named like seq-02"),
        (f"{NAMES[0]} 1 0 0 0 0 0 0\n{NAMES[0]}.png 1 0 0 0 0 0 0\n", "is estimated twice"),
        ("0 1 2 3 0 0 0 1\n9 1 2 3 0 0 0 1\n", r"line 2: timestamp 9; accepted .* 0 to 3"),
        ("0 1 2 3 0 0 0 1\n1 1 2 3\n", "line 2: holds 4 numbers; a TUM line has 8"),
        ("1 2 3\n", "line 1 is '1 2 3'; accepted: a folder of NAME.pose.txt"),
        (f"{NAMES[0]} 1 0 0 zero 0 0 0\n", "line 1: could not convert string to float: 'zero'"),
        (f"1 1 0 0 0 0 0 0 1 {NAMES[0]}\n\n2 1 0 0\n", "line 3: 0 has 3 numbers, expected 7"),
    ],
)
def test_unusable_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    """Each unusable file is one error that says where and what is accepted."""
    path = tmp_path / "estimates.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_estimates(path, NAMES)
    assert str(path) in str(error.value)


def test_broken_pose_file_and_missing_file_are_named(tmp_path: Path) -> None:
    """A pose file with the wrong count, and a path that is not there."""
    (tmp_path / "frame.pose.txt").write_text("1 2 3")
    with pytest.raises(DataError, match=r"frame\.pose\.txt: holds 3 numbers"):
        read_estimates(tmp_path, NAMES)
    with pytest.raises(DataError, match="cannot be read"):
        read_estimates(tmp_path / "nowhere.txt", NAMES)


@pytest.mark.parametrize("name", ["../frame", "/frame"])
def test_names_do_not_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    """A scene from elsewhere cannot have files written outside the report."""
    with pytest.raises(DataError, match="must not lead out of"):
        write_pose_files(tmp_path / "poses", [name], _poses()[:1])
