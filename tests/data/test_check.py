"""The scene check: its numbers, and whether it finds wrong poses without crying wolf."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from rap import geometry
from rap.data import conventions
from rap.data.check import Report, check, show
from rap.data.conventions import AS_READ, NO_MOTION, Evidence
from rap.data.reprojection import depth_map
from rap.data.verdicts import judge_fit
from rap.scene import DataError, Frame, Points, Scene, bounds, poses
from tests.data.folders import OPENGL, box_scene

Change = Callable[[Tensor], Tensor]
MILLI = torch.tensor([[1.0, 1.0, 1.0, 1000.0]] * 3 + [[1.0] * 4], dtype=torch.float64)
# How the poses of a file may be wrong, by the name of the reading that is right.
WRONG: dict[str, Change] = {
    "inverted": geometry.invert,
    "flipped axes": lambda pose: pose @ OPENGL,
    "inverted, flipped axes": lambda pose: geometry.invert(pose @ OPENGL),
    "millimetres": lambda pose: pose * MILLI,
}


def good_scene() -> Scene:
    """A box that 16 frames walk through, 80x60, with depth and points."""
    return box_scene(16, 4, 80, 60)


def with_test_poses(scene: Scene, change: Change) -> Scene:
    """The same scene with other poses of the test frames."""
    return replace(scene, test=with_poses(scene, change).test)


def with_poses(scene: Scene, change: Change) -> Scene:
    """The same images with other poses."""

    def changed(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
        return tuple(replace(f, world_from_camera=change(f.world_from_camera)) for f in frames)

    return replace(scene, train=changed(scene.train), test=changed(scene.test))


def only(kind: str, scene: Scene) -> Scene:
    """The scene with one kind of evidence left."""
    if kind != "points":
        scene = replace(scene, points=None)
    if kind == "depth":
        return scene
    train = tuple(replace(frame, depth=None) for frame in scene.train)
    test = tuple(replace(frame, depth=None) for frame in scene.test)
    return replace(scene, train=train, test=test)


def problems(report: Report) -> list[str]:
    return [finding.message for finding in report.findings if finding.level != "info"]


@pytest.mark.parametrize("kind", ["points", "depth", "photographs"])
def test_right_poses_are_confirmed(kind: str) -> None:
    """Each kind of evidence confirms poses that are right, and complains of nothing."""
    report = check(only(kind, good_scene()))
    assert report.ok
    whole = "poses and axes confirmed by"
    # four test frames are too few to be judged by points alone
    test = "those of the test frames confirmed by photographs"
    by = {kind: f"those of the test frames confirmed by {kind}"} | {"points": test}
    assert [f.message for f in report.findings] == [f"{whole} {kind}", by[kind]]


@pytest.mark.parametrize("kind", ["points", "depth", "photographs"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_convention_is_found(kind: str, wrong: str) -> None:
    """One error names the source and the reading that fits; photographs are blind to units."""
    scene = with_poses(only(kind, good_scene()), WRONG[wrong])
    report = check(scene)
    if kind == "photographs" and wrong == "millimetres":
        assert report.ok
        return
    assert not report.ok
    (problem,) = problems(report)
    assert problem.startswith(f"painted box: judged by {kind}, the poses look wrong ({wrong}): ")


@pytest.mark.parametrize(
    ("kind", "num_test"), [("points", 4), ("points", 8), ("depth", 4), ("photographs", 8)]
)
@pytest.mark.parametrize("wrong", ["inverted", "flipped axes"])
def test_a_wrong_test_split_is_found(num_test: int, kind: str, wrong: str) -> None:
    """Training poses that are right say nothing of those of the test frames."""
    scene = only(kind, box_scene(16, num_test, 80, 60))
    report = check(with_test_poses(scene, WRONG[wrong]))
    (problem,) = problems(report)
    assert re.match(rf"painted box: judged by \w+, the test poses look wrong \({wrong}\)", problem)


@pytest.mark.parametrize("kind", ["points", "depth", "photographs"])
def test_a_test_split_in_another_unit_is_found(kind: str) -> None:
    """Fifty times as large as the training split: wrong by any evidence."""
    factor = torch.tensor([[1.0, 1.0, 1.0, 50.0]] * 3 + [[1.0] * 4], dtype=torch.float64)
    scene = only(kind, good_scene())
    problem = problems(check(with_test_poses(scene, lambda pose: pose * factor)))[0]
    assert "test poses" in problem or "half of the test frames are" in problem


@pytest.mark.parametrize("kind", ["points", "depth", "photographs"])
def test_a_wrong_training_split_is_not_the_test_splits_fault(kind: str) -> None:
    """Each split is judged for itself."""
    scene = only(kind, good_scene())
    wrong = replace(with_poses(scene, WRONG["inverted"]), test=scene.test)
    report = check(wrong)
    (problem,) = problems(report)
    assert f"judged by {kind}, the training poses look wrong (inverted)" in problem


@pytest.mark.slow
@settings(max_examples=15)
@given(
    num=st.integers(7, 12),
    start=st.integers(0, 4),
    kind=st.sampled_from(["points", "depth", "photographs"]),
    wrong=st.sampled_from(["", "inverted", "flipped axes", "inverted, flipped axes"]),
)
def test_conventions_are_found_in_any_part_and_any_world(
    num: int, start: int, kind: str, wrong: str
) -> None:
    """Whichever frames there are, in a world turned and moved at will: alarm where it is due."""
    whole = box_scene(16, 2, 64, 48)
    turn = geometry.rotation_from_vector(torch.tensor([start - 1.0, 0.3 * num, 2.0]).double())
    world = geometry.rigid(turn, torch.tensor([num, -3.0, start], dtype=torch.float64))
    assert whole.points is not None
    xyz = geometry.transform(world.float(), whole.points.xyz)
    scene = replace(
        with_poses(whole, lambda pose: world @ pose), points=Points(xyz, whole.points.rgb)
    )
    scene = only(kind, replace(scene, train=scene.train[start : start + num]))
    report = check(with_poses(scene, WRONG[wrong]) if wrong else scene)
    assert [f"({wrong})" in problem for problem in problems(report)] == ([True] if wrong else [])


def in_another_order(scene: Scene) -> Scene:
    """Every frame with the pose of some other frame."""
    read = [scene.train[(7 * i + 3) % 16].world_from_camera for i in range(16)]
    pairs = zip(scene.train, read, strict=True)
    return replace(scene, train=tuple(replace(f, world_from_camera=pose) for f, pose in pairs))


def test_poses_of_other_frames_are_found() -> None:
    """Poses in another order explain depth maps less than no motion at all."""
    (problem,) = problems(check(in_another_order(only("depth", good_scene()))))
    assert "less than no motion at all" in problem


def test_poses_of_other_frames_are_not_confirmed_by_photographs() -> None:
    """Photographs alone cannot say what is wrong, but do not confirm it."""
    report = check(in_another_order(only("photographs", good_scene())))
    assert report.findings[0].message.startswith("poses and axes not confirmed: ")


def test_depth_in_another_unit_is_found() -> None:
    """Depth maps five times too deep do not agree with the motion."""
    scene = only("depth", good_scene())
    train = tuple(
        replace(frame, depth=np.asarray(frame.depth, dtype=np.float32) * np.float32(5.0))
        for frame in scene.train
    )
    (problem,) = problems(check(replace(scene, train=train)))
    assert "depth" in problem


def test_wrong_intrinsics_are_found() -> None:
    """With twice the focal length right poses explain no more than no motion does."""
    scene = only("depth", good_scene())
    camera = replace(scene.camera, fx=2 * scene.camera.fx, fy=2 * scene.camera.fy)
    assert any(
        "intrinsics" in problem for problem in problems(check(replace(scene, camera=camera)))
    )


def test_points_tell_a_focal_length_that_is_twice_the_right_one() -> None:
    """Poses that points confirm do not confirm the intrinsics."""
    scene = only("points", box_scene(16, 8, 80, 60))
    camera = replace(scene.camera, fx=2 * scene.camera.fx, fy=2 * scene.camera.fy)
    report = check(replace(scene, camera=camera))
    assert any("with 0.7 times the focal length" in text for text in problems(report))


def test_poses_that_explain_no_more_than_no_motion_are_found() -> None:
    """Errors alike in both are neither an alarm of a wrong reading nor a confirmation."""
    errors: dict[str, tuple[float, ...]] = {
        AS_READ: (0.022,) * 8,
        "inverted": (0.03,) * 8,
        NO_MOTION: (0.023,) * 8,
    }
    (finding,) = judge_fit(good_scene(), [Evidence("depth", errors)])
    assert finding.level == "warning"
    assert "hardly more than no motion at all would (0.022, 0.023 without)" in finding.message
    few: dict[str, tuple[float, ...]] = {name: values[:4] for name, values in errors.items()}
    assert all(f.level == "info" for f in judge_fit(good_scene(), [Evidence("depth", few)]))


def test_points_of_another_world_are_found() -> None:
    """Points that no camera sees where they should be are no points of this scene."""
    scene = only("points", good_scene())
    assert scene.points is not None
    points = Points(scene.points.xyz + torch.tensor([0.0, 40.0, 0.0]), scene.points.rgb)
    (problem,) = problems(check(replace(scene, points=points)))
    assert "are points and poses in the same world?" in problem


def test_points_without_colours_count_by_their_place() -> None:
    """Some tools write every point black."""
    scene = only("points", good_scene())
    assert scene.points is not None
    scene = replace(scene, points=Points(scene.points.xyz, torch.zeros_like(scene.points.rgb)))
    assert problems(check(scene)) == []
    (problem,) = problems(check(with_poses(scene, WRONG["flipped axes"])))
    assert "(flipped axes)" in problem


def test_too_little_evidence_is_no_alarm() -> None:
    """Three frames prove nothing: the check says so and stays calm."""
    scene = only("photographs", good_scene())
    report = check(with_poses(replace(scene, train=scene.train[:3]), WRONG["inverted"]))
    assert report.ok
    assert "not confirmed" in report.findings[-1].message


def test_leaking_test_frames_are_found() -> None:
    """A test frame with exactly a training pose is named."""
    scene = good_scene()
    leak = replace(scene.test[1], world_from_camera=scene.train[3].world_from_camera)
    report = check(replace(scene, test=(scene.test[0], leak)))
    (problem,) = problems(report)
    assert (
        "1 test frames have exactly the pose of a training frame, 'seq-02/frame-000001'" in problem
    )


def test_an_implausible_extent_is_found() -> None:
    """Without evidence of the unit, the size of the scene remains."""
    scene = with_poses(only("photographs", good_scene()), lambda pose: pose * MILLI * MILLI)
    (problem,) = problems(check(scene))
    assert "the camera centres span" in problem


def test_a_broken_scene_is_refused_before_it_is_judged() -> None:
    """The check is no way around validation."""
    with pytest.raises(DataError, match="the test split is empty"):
        check(replace(good_scene(), test=()))


def test_the_numbers_are_those_of_the_scene() -> None:
    """Counts, extent, and the distance to the jointly nearest training pose."""
    scene = good_scene()
    report = check(scene)
    counts = (report.num_train, report.num_test, report.num_depth)
    assert counts == (16, 4, 20)
    low, high = bounds((*scene.train, *scene.test))
    assert report.extent_m == pytest.approx(tuple((high - low).tolist()))
    train, test = poses(scene.train), poses(scene.test)
    nearest = []
    for pose in test:
        distance_m = (train[:, :3, 3] - pose[:3, 3]).norm(dim=-1)
        turn = pose[:3, :3].expand_as(train[:, :3, :3])
        angle_deg = geometry.rotation_angle_deg(train[:, :3, :3], turn)
        best = (distance_m / 0.05 + angle_deg / 5).argmin()
        nearest.append((float(distance_m[best]), float(angle_deg[best])))
    expected_m, expected_deg = np.median(nearest, axis=0)
    assert report.nearest_translation_m.median == pytest.approx(expected_m)
    assert report.nearest_rotation_deg.median == pytest.approx(expected_deg)
    assert report.nearest_translation_m.largest == pytest.approx(max(m for m, _ in nearest))


def test_the_report_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Tables of numbers and readings, each finding, and the verdict."""
    show(check(with_poses(only("depth", good_scene()), WRONG["inverted"])))
    shown = capsys.readouterr().err
    for text in ("16 train, 4 test", "80 x 60 px", "by depth", "no motion", "not ok"):
        assert text in shown
    assert "error: painted box: judged by depth, the poses look wrong (inverted)" in shown


def test_neighbours_do_not_depend_on_the_convention() -> None:
    """Pairs are of frames a few degrees apart, whatever the axes; no frame is its own."""
    read = poses(good_scene().train)
    pairs = conventions.neighbours(read)
    assert conventions.neighbours(read @ OPENGL) == pairs
    angles = [
        float(geometry.rotation_angle_deg(read[a, :3, :3], read[b, :3, :3])) for a, b in pairs
    ]
    assert 4 < min(angles) < max(angles) < 25


def test_unknown_depth_is_left_out() -> None:
    """Pixels without depth (0) neither help nor harm."""
    scene = only("depth", good_scene())
    random = np.random.default_rng(0)
    train = tuple(
        replace(f, depth=(random.random((60, 80)) > 0.4) * np.asarray(f.depth, dtype=np.float32))
        for f in scene.train
    )
    assert problems(check(replace(scene, train=train))) == []


@pytest.mark.parametrize(
    ("image", "expected"),
    [(Image.new("L", (80, 60)), "image mode L; a depth map has one channel of 16 bits"),
     (None, "cannot be decoded")],
)  # fmt: skip
def test_a_depth_file_that_is_none_is_named(
    tmp_path: Path, image: Image.Image | None, expected: str
) -> None:
    """An 8-bit picture of the depth is no depth map; neither is half a file."""
    path = tmp_path / "a.depth.png"
    (image or Image.new("I;16", (80, 60))).save(path)
    if image is None:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=rf"a\.depth\.png: {expected}"):
        depth_map(replace(good_scene().train[0], depth=path))


def test_depth_files_hold_millimetres(tmp_path: Path) -> None:
    """0 and 65535 both mean that nothing was measured."""
    values = np.array([[0, 1, 1500], [65534, 65535, 20]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    depth = depth_map(replace(good_scene().train[0], image=tmp_path, depth=tmp_path / "a.png"))
    assert depth.tolist() == [[0.0, 0.001, 1.5], [65.534, 0.0, 0.02]]


def test_nearest_weighs_five_centimetres_as_five_degrees() -> None:
    """8 degrees are nearer than 10 cm, and farther than 7 cm."""
    turned = geometry.rotation_from_vector(torch.tensor([[0.0, np.deg2rad(8.0), 0.0]]).double())
    turned = geometry.rigid(turned, torch.zeros(1, 3).double())
    query = torch.eye(4).double()[None]
    for distance_m, nearest in ((0.10, 0), (0.07, 1)):
        moved = query.clone()
        moved[0, 0, 3] = distance_m
        assert geometry.nearest_pose(torch.cat([turned, moved]), query).tolist() == [nearest]
