"""Numbers and evidence about a scene's poses to sentences: what is wrong, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float64
from torch import Tensor

from rap.data import conventions
from rap.data.conventions import AS_READ, NO_MOTION, Evidence
from rap.scene import Frame, Scene, bounds

Level = Literal["info", "warning", "error"]
_PLAUSIBLE_EXTENT_M = (0.02, 5000.0)
_MAX_DEPTH_ERROR = 0.05
_MAX_POINTS_ERROR = 0.8
_SAME_POSE = 1e-6
_NUM_FAULTS = 5


@dataclass(frozen=True)
class Finding:
    """One sentence about the scene: `error` where results would mean nothing."""

    level: Level
    message: str


def pose_files(scene: Scene, frames: Sequence[Frame]) -> str:
    """The file that holds the poses of frames, or the first of several, for a message."""
    files = list(dict.fromkeys(frame.pose_file for frame in frames if frame.pose_file))
    if not files:
        return scene.source
    return f"{files[0]} and {len(files) - 1} more" if len(files) > 1 else str(files[0])


def judge_files(faults: Sequence[str]) -> list[Finding]:
    """Each of the first broken files, and the number of the others."""
    findings = [Finding("error", fault) for fault in faults[:_NUM_FAULTS]]
    if (left := len(faults) - _NUM_FAULTS) > 0:
        more = f"{left} more frames have files that cannot be decoded"
        findings.append(Finding("error", more))
    return findings


def judge_split(
    scene: Scene, translation_m: Float64[Tensor, "n"], rotation_deg: Float64[Tensor, "n"]
) -> list[Finding]:
    """Test frames that stand exactly where a training frame does are likely the same ones."""
    same = (translation_m < _SAME_POSE) & (rotation_deg < _SAME_POSE)
    if not bool(same.any()):
        return []
    first = scene.test[int(same.nonzero()[0])].name
    message = (
        f"{scene.source}: {int(same.sum())} test frames have exactly the pose of a training "
        f"frame, '{first}' first; if they are the same photographs, remove them from one split"
    )
    return [Finding("warning", message)]


def judge_units(scene: Scene, extent: float, translation_m: Float64[Tensor, "n"]) -> list[Finding]:
    """Sizes that no scene has: what remains to judge by where evidence shows nothing wrong."""
    return [*_judge_extent(scene.source, extent), *_judge_distance(scene, translation_m)]


def _judge_extent(source: str, extent: float) -> list[Finding]:
    low, high = _PLAUSIBLE_EXTENT_M
    if low <= extent <= high:
        return []
    message = (
        f"{source}: the camera centres span {extent:.4g} m; {low:g} to {high:g} m are plausible: "
        "scale the poses to metres (by 0.001 from millimetres)"
    )
    return [Finding("warning", message)]


def judge_focal(scene: Scene) -> list[Finding]:
    """A focal length of another size or camera, where points tell."""
    if scene.points is None:
        return []
    factor = conventions.better_focal(scene.train, scene.camera, scene.points)
    if factor is None:
        return []
    message = (
        f"{scene.source}: points explain the photographs much better with {factor:g} times the "
        f"focal length {scene.camera.fx:.1f} px: are the intrinsics those of these images?"
    )
    return [Finding("warning", message)]


def _judge_distance(scene: Scene, translation_m: Float64[Tensor, "n"]) -> list[Finding]:
    low, high = bounds(scene.train)
    extent, away = float((high - low).max()), float(translation_m.median())
    if not 0 < extent < away:
        return []
    message = (
        f"{scene.source}: half of the test frames are {away:.4g} m and more from every training "
        f"frame, and those span {extent:.4g} m only: are both in one world and one unit?"
    )
    return [Finding("warning", message)]


def judge_readings(scene: Scene, evidence: Sequence[Evidence]) -> list[Finding]:
    """The error of a wrong reading, once for each split, from the first evidence that shows it.

    A fault that both splits have is one error.
    """
    of_test = [item for item in evidence if item.part != "training"]
    training = _first_wrong([item for item in evidence if item.part == "training"])
    test = _first_wrong(of_test)
    if training is None or test is None:
        # photographs confirm poses in any unit
        seen = [item for item in of_test if training is None or training[1] in item.errors]
        apart = test is not None or any(item.confirmed() for item in seen)
    else:
        apart = training[1] != test[1]
    found: list[tuple[str, Sequence[Frame], tuple[str, str] | None]]
    if apart:
        found = [("training ", scene.train, training), ("test ", scene.test, test)]
    else:
        found = [("", scene.train, training)]
    return [
        Finding("error", f"{pose_files(scene, frames)}: {_wrong(whose, *wrong)}")
        for whose, frames, wrong in found
        if wrong is not None
    ]


def _first_wrong(evidence: Sequence[Evidence]) -> tuple[str, str] | None:
    """Kind of evidence and the reading that it prefers; a real reading before no motion."""
    preferred = [(item.kind, name) for item in evidence if (name := item.preferred())]
    real = [pair for pair in preferred if pair[1] != NO_MOTION]
    return next(iter(real or preferred), None)


def _wrong(whose: str, kind: str, reading: str) -> str:
    if reading == NO_MOTION:
        return (
            f"judged by {kind}, the {whose}poses explain less than no motion at all would: do "
            "they belong to these images, in this order?"
        )
    fixes = {reading.name: reading.fix for reading in conventions.READINGS}
    return f"judged by {kind}, the {whose}poses look wrong ({reading}): {fixes[reading]}"


def judge_fit(scene: Scene, evidence: Sequence[Evidence]) -> list[Finding]:
    """Data that disagree although no other reading is better; else what they confirm."""
    if any(item.preferred() for item in evidence):
        return []
    training = [item for item in evidence if item.part == "training"]
    test = [item for item in evidence if item.part == "test"]
    for part, whose in ((training, ""), (test, "test frames: ")):
        misfits = [text for item in part if (text := _misfit(item))]
        if misfits:
            return [Finding("warning", f"{scene.source}: {whose}{text}") for text in misfits]
    test = [item for item in evidence if item.part != "training"]
    return [
        _confirmation("poses and axes", training),
        _confirmation("those of the test frames", test),
    ]


def _confirmation(what: str, evidence: Sequence[Evidence]) -> Finding:
    kinds = list(dict.fromkeys(item.kind for item in evidence if item.confirmed()))
    if kinds:
        return Finding("info", f"{what} confirmed by {' and '.join(kinds)}")
    reason = "too few frames, or they differ too little or too much"
    return Finding("info", f"{what} not confirmed: {reason}")


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
    if not evidence.beats_no_motion():
        return (
            f"judged by {evidence.kind}, the poses explain hardly more than no motion at all would "
            f"({error:.3f}, {evidence.median(NO_MOTION):.3f} without): are the intrinsics right, "
            "and do the poses belong to these images?"
        )
    return None
