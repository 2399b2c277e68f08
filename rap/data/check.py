"""What `rap data check` says of a scene: what is in it, and whether its poses can be right."""

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from rap import geometry, log
from rap.camera import Camera
from rap.data import conventions
from rap.data.conventions import AS_READ, NO_MOTION, READINGS, Evidence, Part
from rap.data.decodable import faults
from rap.data.validate import checked_scene
from rap.data.verdicts import (
    Finding,
    judge_files,
    judge_fit,
    judge_focal,
    judge_readings,
    judge_split,
    judge_units,
)
from rap.scene import DataError, Frame, Points, Scene, bounds, poses

_NUM_QUICK = 8
_SAY = {"info": log.info, "warning": log.warn, "error": log.error}


@dataclass(frozen=True)
class Spread:
    """Median, 90th percentile and largest of a quantity."""

    median: float
    p90: float
    largest: float


@dataclass(frozen=True)
class Report:
    """What a scene holds, in numbers, and what is to be said about it."""

    name: str
    source: str
    camera: Camera
    num_train: int
    num_test: int
    num_depth: int
    num_points: int
    extent_m: tuple[float, float, float]
    """Size of the box around the camera centres, in the scene's units (metres where metric)."""
    nearest_translation_m: Spread
    """From each test frame to its nearest training pose: what perfect retrieval would score."""
    nearest_rotation_deg: Spread
    evidence: tuple[Evidence, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing looks wrong: no warning, no error."""
        return all(finding.level == "info" for finding in self.findings)


def check(scene: Scene, num_workers: int = 4) -> Report:
    """Measure a scene that a reader has accepted; decodes every file of it, by `num_workers`.

    Poses, axes and units of each split are judged from points and depth where there are any, and
    otherwise from photographs of neighbouring frames (`rap.data.conventions`).
    """
    checked_scene(scene, scene.source, scene.source)
    frames = (*scene.train, *scene.test)
    low, high = bounds(frames)
    x, y, z = (high - low).tolist()
    train, test = poses(scene.train), poses(scene.test)
    nearest = train[geometry.nearest_pose(train, test)]
    translation_m = torch.linalg.vector_norm(nearest[:, :3, 3] - test[:, :3, 3], dim=-1)
    rotation_deg = geometry.rotation_angle_deg(nearest[:, :3, :3], test[:, :3, :3])
    broken = faults(frames, num_workers)
    known = _without(scene, broken)
    evidence = tuple(_evidence(known))
    size = max(x, y, z)
    wrong = judge_readings(scene, evidence)
    findings = [
        *judge_files(list(broken.values())),
        *judge_split(scene, translation_m, rotation_deg),
        *(wrong or [*judge_units(scene, size, translation_m), *judge_focal(known)]),
        *judge_fit(scene, evidence),
    ]
    return Report(
        name=scene.name,
        source=scene.source,
        camera=scene.camera,
        num_train=len(scene.train),
        num_test=len(scene.test),
        num_depth=sum(frame.depth is not None for frame in frames),
        num_points=len(scene.points.xyz) if scene.points else 0,
        extent_m=(x, y, z),
        nearest_translation_m=_spread(translation_m),
        nearest_rotation_deg=_spread(rotation_deg),
        evidence=evidence,
        findings=tuple(findings),
    )


def warn_of_wrong_poses(scene: Scene, name: str) -> None:
    """One warning where the poses look wrong, from points or depth of a handful of frames.

    For the start of long work on the scene called `name` in commands: a fraction of a second, and
    no reason to stop.
    """
    evidence = [
        item
        for part, frames in (("training", scene.train), ("test", scene.test))
        if (item := _quick_evidence(scene, frames, part)) is not None
    ]
    for finding in judge_readings(scene, evidence)[:1]:
        said = finding.message.partition("):")[0]
        said += ")" if said != finding.message else ""
        log.warn(f"{said}; `rap data check {shlex.quote(name)}` says more")


def _quick_evidence(scene: Scene, frames: Sequence[Frame], part: Part) -> Evidence | None:
    try:
        if scene.points is not None:
            return conventions.from_points(frames, scene.camera, scene.points, part, _NUM_QUICK)
        return conventions.from_depth(frames, scene.camera, part, num=_NUM_QUICK)
    except DataError:
        # a broken file is named by the work that needs it
        return None


def show(report: Report) -> None:
    """The report as a table, then each finding in a line of its own."""
    camera = report.camera
    near_m, near_deg = report.nearest_translation_m, report.nearest_rotation_deg
    rows = [
        ("frames", f"{report.num_train} train, {report.num_test} test"),
        ("images", f"{camera.width} x {camera.height} px"),
        ("focal length", f"{camera.fx:.2f}, {camera.fy:.2f} px"),
        ("principal point", f"{camera.cx:.2f}, {camera.cy:.2f} px"),
        ("depth maps", f"{report.num_depth}"),
        ("points", f"{report.num_points:,}"),
        ("extent of the cameras", " x ".join(f"{size:.2f}" for size in report.extent_m)),
        ("nearest training pose", _retrieval(near_m.median, near_deg.median)),
        ("  90 % within", _retrieval(near_m.p90, near_deg.p90)),
        ("  farthest", _retrieval(near_m.largest, near_deg.largest)),
    ]
    log.table(f"{report.name}: {report.source}", ("what", "value"), rows)
    if report.evidence:
        _show_evidence(report.evidence)
    for finding in report.findings:
        _SAY[finding.level](finding.message)
    log.info("ok" if report.ok else "not ok")


def _show_evidence(evidence: Sequence[Evidence]) -> None:
    readings = list(dict.fromkeys(name for item in evidence for name in item.errors))
    rows = [
        (name, *(f"{item.median(name):.3f}" if name in item.errors else "-" for item in evidence))
        for name in readings
    ]
    columns = ("poses", *(f"{item.part} by {item.kind}" for item in evidence))
    log.table("error of each reading of the poses, 0 is best", columns, rows)


def _evidence(scene: Scene) -> list[Evidence]:
    """The training frames among themselves, the test frames, and the test by the training frames.

    Where the training poses are wrong the test frames are held against what is right instead.
    """
    camera, points = scene.camera, scene.points
    training = _by_points_and_depth(scene.train, camera, points, "training")
    if not training:
        training = _known(conventions.from_photographs(scene.train, camera))
    test = _by_points_and_depth(scene.test, camera, points, "test")
    right = _right_poses(scene.train, training)
    across = _known(conventions.from_depth(scene.test, camera, "test and training", right))
    judged = [item for item in (*test, *across) if item.enough]
    if not judged:
        alone = conventions.from_photographs(scene.test, camera, "test")
        with_train = conventions.from_photographs(scene.test, camera, "test and training", right)
        judged = _known(alone, with_train)
    return [*training, *judged]


def _without(scene: Scene, broken: Collection[str]) -> Scene:
    """The scene without the frames of these names; a split may become empty."""
    train, test = (
        tuple(frame for frame in frames if frame.name not in broken)
        for frames in (scene.train, scene.test)
    )
    return replace(scene, train=train, test=test)


def _by_points_and_depth(
    frames: Sequence[Frame], camera: Camera, points: Points | None, part: Part
) -> list[Evidence]:
    return _known(
        conventions.from_points(frames, camera, points, part) if points else None,
        conventions.from_depth(frames, camera, part),
    )


def _known(*evidence: Evidence | None) -> list[Evidence]:
    return [item for item in evidence if item is not None]


def _right_poses(frames: Sequence[Frame], evidence: Sequence[Evidence]) -> list[Frame]:
    """The frames with the reading of their poses that the evidence prefers; none if none fits."""
    preferred = next((name for item in evidence if (name := item.preferred())), AS_READ)
    if preferred == NO_MOTION:
        return []
    (reading,) = (reading for reading in READINGS if reading.name == preferred)
    read = reading.apply(poses(frames))
    return [replace(f, world_from_camera=pose) for f, pose in zip(frames, read, strict=True)]


def _spread(values: Float64[Tensor, "n"]) -> Spread:
    median, p90 = (float(values.quantile(q)) for q in (0.5, 0.9))
    return Spread(median, p90, float(values.max()))


def _retrieval(translation: float, rotation_deg: float) -> str:
    return f"{translation:.3f}, {rotation_deg:.1f} deg"
