"""Photographs and depth maps that are whole only in their headers, and how the check says it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rap import cli
from rap.data import load
from rap.data.check import check, show
from rap.data.decodable import faults
from rap.data.room_files import write_scene
from rap.data.verdicts import pose_files
from tests.data.folders import (
    box_scene,
    write_colmap,
    write_seven_scenes,
    write_transforms,
)


def cut(path: Path) -> None:
    """Keep two thirds of a file: more than its header."""
    whole = path.read_bytes()
    path.write_bytes(whole[: 2 * len(whole) // 3])


@pytest.mark.parametrize("num_workers", [0, 4])
def test_files_that_are_cut_off_are_named(tmp_path: Path, num_workers: int) -> None:
    """Photographs and depth maps, in order; whole ones are not."""
    write_seven_scenes(tmp_path / "scene")
    scene = load(tmp_path / "scene")
    assert faults((*scene.train, *scene.test), num_workers) == {}
    for name in ("seq-01/frame-000002.color.png", "seq-02/frame-000001.depth.png"):
        cut(tmp_path / "scene" / name)
    found = faults((*scene.train, *scene.test), num_workers)
    assert list(found) == ["seq-01/frame-000002", "seq-02/frame-000001"]
    for name, file in zip(found, ("color", "depth"), strict=True):
        assert found[name].startswith(f"{tmp_path}/scene/{name}.{file}.png: cannot be decoded: ")


def test_a_mask_that_is_cut_off_is_named(tmp_path: Path) -> None:
    """A mask is read by the fit, and as needed."""
    frame = box_scene(6, 2, 32, 24).train[0]
    path = tmp_path / "mask.png"
    random = np.random.default_rng(0).integers(0, 255, (24, 32), dtype=np.uint8)
    Image.fromarray(random).save(path)
    cut(path)
    assert "mask.png: not a readable mask" in faults([replace(frame, mask=path)])[frame.name]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_check_finds_a_photograph_that_is_cut_off(tmp_path: Path, suffix: str) -> None:
    """It is an error with the file's name, and the others are judged all the same."""
    write_scene(box_scene(16, 4, 80, 60), tmp_path / "scene")
    path = tmp_path / "scene/seq-01/frame-000004.color.png"
    if suffix == "jpg":
        picture = Image.open(path).convert("RGB")
        path.unlink()
        path = path.with_suffix(".jpg")
        picture.save(path)
    cut(path)
    report = check(load(tmp_path / "scene"))
    (problem,) = [finding for finding in report.findings if finding.level != "info"]
    assert problem.level == "error"
    assert problem.message.startswith(f"{path}: cannot be decoded: ")
    assert any("poses and axes confirmed" in finding.message for finding in report.findings)


def test_many_broken_files_are_a_few_lines(tmp_path: Path) -> None:
    """Five are named, and the others counted."""
    write_scene(box_scene(16, 4, 80, 60), tmp_path / "scene")
    for path in sorted((tmp_path / "scene").glob("*/*.color.png"))[:9]:
        cut(path)
    report = check(load(tmp_path / "scene"))
    errors = [finding.message for finding in report.findings if finding.level == "error"]
    assert len(errors) == 6
    assert errors[-1].endswith("4 more frames have files that cannot be decoded")


def test_a_check_of_broken_files_alone_ends_in_findings(tmp_path: Path) -> None:
    """Where nothing can be decoded, nothing can be judged."""
    write_seven_scenes(tmp_path / "scene")
    for path in (tmp_path / "scene").glob("*/*.color.png"):
        cut(path)
    assert not check(load(tmp_path / "scene")).ok


def test_the_command_prints_errors_as_errors(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`error:`, the file, and exit code 1."""
    write_seven_scenes(tmp_path / "scene")
    path = tmp_path / "scene/seq-02/frame-000001.color.png"
    cut(path)
    assert cli.main(["data", "check", str(tmp_path / "scene")]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith(f"error: {path}: cannot be decoded") for line in lines)


@pytest.mark.parametrize(
    ("write", "file"),
    [
        (write_seven_scenes, "seq-02/frame-000000.pose.txt and 1 more"),
        (write_colmap, "sparse/0/images.txt"),
        (write_transforms, "transforms_test.json"),
    ],
)
def test_frames_know_the_file_of_their_pose(
    tmp_path: Path, write: Callable[[Path], None], file: str
) -> None:
    """So that an error about a split's poses names that file, not the folder."""
    root = tmp_path / "scene"
    write(root)
    scene = load(root)
    assert all(frame.pose_file is not None for frame in (*scene.train, *scene.test))
    assert pose_files(scene, scene.test) == f"{root}/{file}"


def test_wrong_poses_name_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first of the files that are to be mended, and how many more."""
    root = tmp_path / "scene"
    write_scene(box_scene(16, 4, 80, 60), root)
    for path in root.glob("seq-02/*.pose.txt"):
        pose = torch.linalg.inv(torch.from_numpy(np.loadtxt(path)))
        np.savetxt(path, pose.numpy())
    show(check(load(root)))
    lines = capsys.readouterr().err.splitlines()
    where = f"error: {root}/seq-02/frame-000000.pose.txt and 3 more: judged by "
    assert any(line.startswith(where) for line in lines)
