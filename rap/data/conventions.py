"""Which reading of the poses explains what the frames show: as they are, or another one.

A file with inverted poses, other camera axes or other units holds valid rigid transforms: only the
data can tell. Each kind of evidence gives every reading an error per sample (a frame, or a pair of
frames), and a reading is preferred where it wins nearly everywhere. The errors:

points: c / (c + share of the points in view x correlation of their colours with the photograph's);
depth: the median disagreement of one depth map carried over to the next, as a share of the depth;
photographs: 1 - the mean correlation of small patches, each under the best of several depths (a
plane sweep; its farthest plane is the homography K R K^-1 of a pure rotation).

Frames are paired with each other, or test frames with training frames that are known to be right: a
test split may be wrong alone, or lie in a world of its own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from rap import geometry
from rap.camera import Camera
from rap.data.images import decode
from rap.data.reprojection import (
    depth_error,
    depth_map,
    photograph_error,
    points_explained,
)
from rap.scene import Frame, Points, poses

Kind = Literal["points", "depth", "photographs"]
Part = Literal["training", "test", "test and training"]
# For each reading: a frame, the other frame, and the motion from the first to the second.
_Motions = dict[str, list[tuple[int, int, Float64[Tensor, "4 4"]]]]
AS_READ = "as read"
NO_MOTION = "no motion"
MILLIMETRES = "millimetres"
_FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
_MILLI = torch.tensor([[1.0, 1.0, 1.0, 1e-3]] * 3 + [[1.0] * 4], dtype=torch.float64)
_THUMBNAIL_PX = 128
_NUM_SAMPLES = 24
_NUM_ACROSS = 12
_MIN_ACROSS = 8
_MIN_SAMPLES = 5
_WIN_SHARE = 0.8
_WIN_RATIO = 0.9
_FOCAL_FACTORS = (0.7, 1.4)
_MUCH = 0.6
_PAIR_ANGLE_DEG = 8.0
_PAIR_REACH = 0.15
# Where a hundredth of the points explains the photograph, a reading is neither good nor bad.
_FEW_POINTS = 0.01
_AXES = "(transforms.json: OpenGL, y up, z back; all others: OpenCV, y down, z forward)"


@dataclass(frozen=True)
class Reading:
    """A way to understand the numbers in a pose file, and what to do where it is the right one."""

    name: str
    fix: str
    apply: Callable[[Float64[Tensor, "n 4 4"]], Float64[Tensor, "n 4 4"]]


READINGS = (
    Reading(AS_READ, "", lambda p: p),
    Reading(
        "inverted",
        "they look like camera-from-world: store the inverse of every matrix",
        geometry.invert,
    ),
    Reading(
        "flipped axes",
        f"the camera's y and z axes look flipped: store them as the format asks {_AXES}",
        lambda p: p @ _FLIP,
    ),
    Reading(
        "inverted, flipped axes",
        "they look like camera-from-world with the camera's y and z axes flipped: store "
        f"camera-to-world, with the axes that the format asks for {_AXES}",
        lambda p: geometry.invert(p) @ _FLIP,
    ),
    Reading(
        MILLIMETRES,
        "their translations look far too large, like millimetres: divide them by 1000, or by what "
        "makes them metres",
        lambda p: p * _MILLI,
    ),
)


@dataclass(frozen=True)
class Evidence:
    """Errors of every reading, sample by sample; lower is better, inf where nothing is in view."""

    kind: Kind
    errors: dict[str, tuple[float, ...]]
    part: Part = "training"

    @property
    def enough(self) -> bool:
        """Whether there are samples enough to judge by."""
        return len(self.errors[AS_READ]) >= _MIN_SAMPLES

    def median(self, reading: str) -> float:
        """The typical error of a reading."""
        return float(np.median(self.errors[reading]))

    def preferred(self) -> str | None:
        """The reading that is better than the files' own nearly everywhere, or None."""
        better = [name for name in self.errors if self._beats(name, AS_READ)]
        # no motion explains frames that overlap little better than any right poses do
        real = [name for name in better if name != NO_MOTION]
        return min(real or better, key=self.median, default=None)

    def confirmed(self) -> bool:
        """Whether the reading of the files is better than every other nearly everywhere."""
        return all(self._beats(AS_READ, name) for name in self.errors if name != AS_READ)

    def beats_no_motion(self) -> bool:
        """Whether the poses explain more than none at all would; true where too few tell."""
        unknown = NO_MOTION not in self.errors or not self.enough
        return unknown or self._beats(AS_READ, NO_MOTION)

    def _beats(self, name: str, other: str) -> bool:
        return _beats(self.errors[name], self.errors[other])


def _beats(errors: Sequence[float], others: Sequence[float]) -> bool:
    a, b = np.array(errors), np.array(others)
    enough = len(a) >= _MIN_SAMPLES and float((a < b).mean()) >= _WIN_SHARE
    return enough and bool(np.median(a) < _WIN_RATIO * np.median(b))


def neighbours(
    world_from_camera: Float64[Tensor, "n 4 4"], most: int = _NUM_SAMPLES
) -> list[tuple[int, int]]:
    """At most so many pairs of frames that see much the same from different poses.

    The angle between two cameras is the same in every reading, and nearly so the distance of two
    that look the same way, so wrong poses find nearly the pairs that right ones do.
    """
    num = len(world_from_camera)
    if num < 2:
        return []
    extent = _extent(world_from_camera)
    pairs = []
    for i in _spread(num, most):
        cost = _cost(world_from_camera[i], world_from_camera, extent)
        cost[i] = torch.inf
        pairs.append((i, int(cost.argmin())))
    return pairs


def _neighbours_across(
    read: Float64[Tensor, "n 4 4"], others: Float64[Tensor, "m 4 4"]
) -> list[tuple[int, int]]:
    """Pairs of a frame and one of the others that sees much the same; several where few frames."""
    chosen = _spread(len(read), _NUM_ACROSS)
    each = min(len(others), math.ceil(_MIN_ACROSS / len(chosen)))
    extent = _extent(others)
    return [
        (i, int(j))
        for i in chosen
        for j in _cost(read[i], others, extent).topk(each, largest=False).indices
    ]


def _cost(
    pose: Float64[Tensor, "4 4"], others: Float64[Tensor, "n 4 4"], extent: float
) -> Float64[Tensor, "n"]:
    """How badly others suit as neighbours: 0 is the same place, turned by a few degrees."""
    quat = geometry.quaternion_from_rotation(torch.cat([pose[None], others])[:, :3, :3])
    angle_deg = torch.rad2deg(2 * torch.acos((quat[1:] @ quat[0]).abs().clamp(max=1.0)))
    distance = torch.linalg.vector_norm(others[:, :3, 3] - pose[:3, 3], dim=-1)
    return (angle_deg / _PAIR_ANGLE_DEG - 1).abs() + distance / max(_PAIR_REACH * extent, 1e-12)


def _extent(world_from_camera: Float64[Tensor, "n 4 4"]) -> float:
    centre = world_from_camera[:, :3, 3]
    return float((centre.amax(0) - centre.amin(0)).max())


def from_points(
    frames: Sequence[Frame],
    camera: Camera,
    points: Points,
    part: Part = "training",
    num: int = _NUM_SAMPLES,
) -> Evidence | None:
    """Points must be in front of the cameras, inside the images, and of the same colour there.

    None where there are no frames.
    """
    if not frames:
        return None
    chosen = [frames[i] for i in _spread(len(frames), num)]
    step = max(1, len(points.xyz) // 5000)
    xyz, rgb = points.xyz[::step].double(), points.rgb[::step].float()
    small = _small(camera)
    images = decode(chosen, small).float()
    errors = {}
    for reading in READINGS:
        camera_from_world = geometry.invert(reading.apply(poses(chosen)))
        seen = geometry.transform(camera_from_world, xyz.expand(len(chosen), -1, -1))
        errors[reading.name] = tuple(
            _FEW_POINTS / (_FEW_POINTS + points_explained(small, image, view, rgb))
            for image, view in zip(images, seen, strict=True)
        )
    return Evidence("points", errors, part)


def better_focal(frames: Sequence[Frame], camera: Camera, points: Points) -> float | None:
    """A factor of the focal length with which points explain much more, or None."""
    errors = {}
    for factor in (1.0, *_FOCAL_FACTORS):
        scaled = replace(camera, fx=factor * camera.fx, fy=factor * camera.fy)
        evidence = from_points(frames, scaled, points)
        if evidence is None:
            return None
        errors[factor] = evidence.errors[AS_READ]
    best = min(errors, key=lambda factor: float(np.median(errors[factor])))
    much = float(np.median(errors[best])) < _MUCH * float(np.median(errors[1.0]))
    return best if much and _beats(errors[best], errors[1.0]) else None


def from_depth(
    frames: Sequence[Frame],
    camera: Camera,
    part: Part = "training",
    others: Sequence[Frame] | None = None,
    num: int = _NUM_SAMPLES,
) -> Evidence | None:
    """Depth maps of neighbouring frames must agree; None where fewer than two frames have one.

    With `others`, whose poses are right, each neighbour is one of them.
    """
    chosen = [frame for frame in frames if frame.depth is not None]
    known = None if others is None else [frame for frame in others if frame.depth is not None]
    motions = _motions(chosen, known, READINGS, num)
    every = [*chosen, *(known or ())]
    maps = {i: depth_map(every[i]) for i in _used(motions)}

    def error(a: int, b: int, b_from_a: Float64[Tensor, "4 4"]) -> float:
        return depth_error(camera, maps[a], maps[b], b_from_a)

    return _evidence("depth", motions, error, part)


def from_photographs(
    frames: Sequence[Frame],
    camera: Camera,
    part: Part = "training",
    others: Sequence[Frame] | None = None,
) -> Evidence | None:
    """Neighbouring photographs must look alike when warped; blind to units, as the sweep is.

    With `others`, whose poses are right, each neighbour is one of them.
    """
    scale_free = [reading for reading in READINGS if reading.name != MILLIMETRES]
    motions = _motions(frames, others, scale_free)
    used = _used(motions)
    small = _small(camera)
    every = [*frames, *(others or ())]
    grey = decode([every[i] for i in used], small).float().mean(1)
    images = dict(zip(used, grey, strict=True))

    def error(a: int, b: int, b_from_a: Float64[Tensor, "4 4"]) -> float:
        return photograph_error(small, images[a], images[b], b_from_a)

    return _evidence("photographs", motions, error, part)


def _small(camera: Camera) -> Camera:
    """At most 128 pixels wide and high: sharp enough to tell readings apart."""
    scale = min(1.0, _THUMBNAIL_PX / max(camera.width, camera.height))
    return camera.resized(round(camera.width * scale), round(camera.height * scale))


def _spread(num: int, most: int = _NUM_SAMPLES) -> list[int]:
    """At most 24 indices, evenly spread."""
    return sorted({round(i) for i in np.linspace(0, num - 1, min(num, most)).tolist()})


def _motions(
    frames: Sequence[Frame],
    others: Sequence[Frame] | None,
    readings: Sequence[Reading],
    num: int = _NUM_SAMPLES,
) -> _Motions:
    """Pairs and motions under every reading; the others count on from the frames.

    Frames among themselves have the same pairs in every reading. To the others each reading finds
    its own, for a wrong one looks elsewhere.
    """
    read = poses(frames)
    fixed = poses(others or ())
    if not len(read) or (others is not None and not len(fixed)):
        return {reading.name: [] for reading in readings}
    motions = {}
    for reading in readings:
        applied = reading.apply(read)
        if others is None:
            pairs, target = neighbours(read, num), applied
        else:
            pairs = [(a, len(read) + b) for a, b in _neighbours_across(applied, fixed)]
            target = torch.cat([applied, fixed])
        camera_from_world = geometry.invert(target)
        motions[reading.name] = [(a, b, camera_from_world[b] @ applied[a]) for a, b in pairs]
    return motions


def _used(motions: _Motions) -> list[int]:
    return sorted({i for pairs in motions.values() for a, b, _ in pairs for i in (a, b)})


def _evidence(
    kind: Kind,
    motions: _Motions,
    error: Callable[[int, int, Float64[Tensor, "4 4"]], float],
    part: Part,
) -> Evidence | None:
    if not motions[AS_READ]:
        return None
    still = torch.eye(4, dtype=torch.float64)
    errors = {
        name: tuple(error(a, b, motion) for a, b, motion in pairs)
        for name, pairs in motions.items()
    }
    if part != "test and training":
        errors[NO_MOTION] = tuple(error(a, b, still) for a, b, _ in motions[AS_READ])
        return Evidence(kind, errors, part)
    # Each reading has pairs of its own here: one that explains them no better than no motion
    # does has found frames that see something else, and its error says nothing.
    for name, pairs in motions.items():
        if not _beats(errors[name], [error(a, b, still) for a, b, _ in pairs]):
            errors[name] = (math.inf,) * len(pairs)
    return Evidence(kind, errors, part)
