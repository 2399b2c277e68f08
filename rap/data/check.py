"""What `rap data check` says of a scene: what is in it, and whether its poses can be right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from rap import geometry, log
from rap.camera import Camera
from rap.data import conventions
from rap.data.conventions import AS_READ, NO_MOTION, Evidence
from rap.data.validate import checked_scene
from rap.scene import Scene, bounds, poses

Level = Literal["info", "warning", "error"]
_PLAUSIBLE_EXTENT_M = (0.02, 5000.0)
_MAX_DEPTH_ERROR = 0.05
_MAX_POINTS_ERROR = 0.8
_SAME_POSE = 1e-6


@dataclass(frozen=True)
class Finding:
    """One sentence about the scene: `error` where results would mean nothing."""

    level: Level
    message: str


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


def check(scene: Scene) -> Report:
    """Measure a scene that a reader has accepted; reads some of its images and depth maps.

    Poses, axes and units are judged from points and depth where there are any, and otherwise from
    photographs of neighbouring frames (`rap.data.conventions`).
    """
    checked_scene(scene, scene.source, scene.source)
    frames = (*scene.train, *scene.test)
    low, high = bounds(frames)
    x, y, z = (high - low).tolist()
    train, test = poses(scene.train), poses(scene.test)
    nearest = train[geometry.nearest_pose(train, test)]
    translation_m = torch.linalg.vector_norm(nearest[:, :3, 3] - test[:, :3, 3], dim=-1)
    rotation_deg = geometry.rotation_angle_deg(nearest[:, :3, :3], test[:, :3, :3])
    evidence = tuple(_evidence(scene))
    findings = [
        *_judge_split(scene, translation_m, rotation_deg),
        *(_judge_readings(scene.source, evidence) or _judge_extent(scene.source, max(x, y, z))),
        *_judge_fit(scene.source, evidence),
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
        say = log.info if finding.level == "info" else log.warn
        say(finding.message)
    log.info("ok" if report.ok else "not ok")


def _show_evidence(evidence: Sequence[Evidence]) -> None:
    readings = list(dict.fromkeys(name for item in evidence for name in item.errors))
    rows = [
        (name, *(f"{item.median(name):.3f}" if name in item.errors else "-" for item in evidence))
        for name in readings
    ]
    columns = ("poses", *(f"by {item.kind}" for item in evidence))
    log.table("error of each reading of the poses, 0 is best", columns, rows)


def _evidence(scene: Scene) -> list[Evidence]:
    points, camera = scene.points, scene.camera
    known = [
        evidence
        for evidence in (
            conventions.from_points(scene.train, camera, points) if points else None,
            conventions.from_depth(scene.train, camera),
        )
        if evidence is not None
    ]
    if known:
        return known
    photographs = conventions.from_photographs(scene.train, camera)
    return [photographs] if photographs else []


def _judge_split(
    scene: Scene, translation_m: Float64[Tensor, "n"], rotation_deg: Float64[Tensor, "n"]
) -> list[Finding]:
    same = (translation_m < _SAME_POSE) & (rotation_deg < _SAME_POSE)
    if not bool(same.any()):
        return []
    first = scene.test[int(same.nonzero()[0])].name
    message = (
        f"{scene.source}: {int(same.sum())} test frames have exactly the pose of a training "
        f"frame, '{first}' first; if they are the same photographs, remove them from one split"
    )
    return [Finding("warning", message)]


def _judge_extent(source: str, extent: float) -> list[Finding]:
    low, high = _PLAUSIBLE_EXTENT_M
    if low <= extent <= high:
        return []
    message = (
        f"{source}: the camera centres span {extent:.4g} m; {low:g} to {high:g} m are plausible: "
        "scale the poses to metres (by 0.001 from millimetres)"
    )
    return [Finding("warning", message)]


def _judge_readings(source: str, evidence: Sequence[Evidence]) -> list[Finding]:
    """The error of a wrong reading, once, from the first evidence that shows it."""
    preferred = [(item.kind, name) for item in evidence if (name := item.preferred())]
    fixes = {reading.name: reading.fix for reading in conventions.READINGS}
    for kind, name in preferred:
        if name != NO_MOTION:
            message = f"{source}: judged by {kind}, the poses look wrong ({name}): {fixes[name]}"
            return [Finding("error", message)]
    for kind, _ in preferred:
        message = (
            f"{source}: judged by {kind}, the poses explain less than no motion at all would: do "
            "they belong to these images, in this order?"
        )
        return [Finding("error", message)]
    return []


def _judge_fit(source: str, evidence: Sequence[Evidence]) -> list[Finding]:
    """Data that disagree although no other reading is better; else what they confirm."""
    if any(item.preferred() for item in evidence):
        return []
    misfits = [
        Finding("warning", f"{source}: {text}") for item in evidence if (text := _misfit(item))
    ]
    if misfits:
        return misfits
    kinds = [item.kind for item in evidence if item.confirmed()]
    if kinds:
        return [Finding("info", f"poses and axes confirmed by {' and '.join(kinds)}")]
    message = "poses and axes not confirmed: too few frames, or they differ too little or too much"
    return [Finding("info", message)]


def _misfit(evidence: Evidence) -> str | None:
    error = evidence.median(AS_READ)
    if evidence.kind == "depth" and error > _MAX_DEPTH_ERROR:
        return (
            f"depth maps of neighbouring frames disagree by {error:.0%} of the depth: is its unit "
            "millimetres, is it registered to the colour camera, are the intrinsics right?"
        )
    if evidence.kind == "points" and error > _MAX_POINTS_ERROR:
        return (
            "hardly any point is in view with the colour that it has in the photographs: are "
            "points and poses in the same world?"
        )
    return None


def _spread(values: Float64[Tensor, "n"]) -> Spread:
    median, p90 = (float(values.quantile(q)) for q in (0.5, 0.9))
    return Spread(median, p90, float(values.max()))


def _retrieval(translation: float, rotation_deg: float) -> str:
    return f"{translation:.3f}, {rotation_deg:.1f} deg"
