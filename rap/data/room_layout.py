"""Shape of the procedural room: a box seen from inside, boxes in it seen from outside, lamps.

World coordinates are z-up metres with the floor's centre at the origin. The furniture stands near
the walls or is knee-high, so that the camera path of `room_path` is always free.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy.random import Generator

Vectors = Float64[np.ndarray, "*b 3"]


@dataclass(frozen=True, eq=False)
class Solids:
    """Boxes as six rectangles each, solid 0 being the room; normals point out of the box."""

    normal: Float64[np.ndarray, "s 6 3"]
    corner: Float64[np.ndarray, "s 6 3"]
    """The rectangle is `corner + a·u + b·v` for (a, b) in [0, size]."""
    u: Float64[np.ndarray, "s 6 3"]
    v: Float64[np.ndarray, "s 6 3"]
    size: Float64[np.ndarray, "s 6 2"]

    @property
    def offset(self) -> Float64[np.ndarray, "s 6"]:
        """Distance d of each plane `normal·x = d`."""
        return (self.normal * self.corner).sum(-1)


@dataclass(frozen=True, eq=False)
class Layout:
    """What stands where."""

    solids: Solids
    lamps: Float64[np.ndarray, "l 3"]


def build(rng: Generator) -> Layout:
    """A room of about 5×4×2.6 m with six boxes and three lamps."""
    length, width, height = np.array([5.0, 4.0, 2.6]) * rng.uniform(0.96, 1.04, 3)
    east, north = length / 2, width / 2

    def near(value: float, spread: float) -> float:
        return value + rng.uniform(-spread, spread)

    sideboard = near(-0.6, 0.4), -north + 0.33
    boxes = [
        _box((0.0, 0.0, 0.0), (length, width, height), 0.0),
        _box((east - 0.62, north - 0.36, 0.0), (near(1.0, 0.1), 0.6, near(2.0, 0.1)), 0.0),
        _box((*sideboard, 0.0), (near(1.5, 0.2), 0.6, near(0.8, 0.05)), 0.0),
        _box((*sideboard, 0.86), (0.42, 0.34, near(0.4, 0.05)), near(0.3, 0.2)),
        _box((-east + 0.3, near(0.5, 0.4), 0.0), (0.5, near(1.1, 0.1), near(1.4, 0.1)), 0.0),
        _box((near(0.1, 0.2), near(0.0, 0.2), 0.0), (1.0, 0.7, 0.45), near(0.4, 0.3)),
        _box((near(-0.9, 0.3), north - 0.2, 1.35), (near(1.2, 0.1), 0.36, 0.7), 0.0),
    ]
    stacked = [np.stack(part) for part in zip(*boxes, strict=True)]
    lamps = np.array([[1.3, -0.9, 2.15], [-1.4, 0.9, 2.2], [0.3, 1.2, 1.9]])
    return Layout(Solids(*stacked), lamps + rng.uniform(-0.2, 0.2, (3, 3)))


def visible(
    solids: Solids, origin: Float64[np.ndarray, "n 3"], target: Float64[np.ndarray, "n 3"]
) -> Bool[np.ndarray, "n"]:
    """Whether the open segment from origin to target meets none of the boxes in the room."""
    normal, offset = solids.normal[1:], solids.offset[1:]
    start = offset - np.einsum("nc,sfc->nsf", origin, normal)
    speed = np.einsum("nc,sfc->nsf", target - origin, normal)
    # Inside a half-space is where start - t·speed >= 0; the segment is t in [0, 1].
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(speed == 0, np.where(start < 0, np.inf, -np.inf), start / speed)
    enter = np.where(speed <= 0, t, 0.0).max(-1)
    leave = np.where(speed > 0, t, 1.0).min(-1)
    return (np.maximum(enter, 0.0) >= np.minimum(leave, 1.0)).all(-1)


def _box(
    base: tuple[float, float, float], size: tuple[float, float, float], yaw: float
) -> tuple[Vectors, Vectors, Vectors, Vectors, Float64[np.ndarray, "6 2"]]:
    """Normal, corner, u, v and size of the faces of a box standing on the point `base`."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    axes = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    half = np.array(size) / 2
    centre = np.array(base) + half[2] * axes[2]
    rows = []
    for axis in range(3):
        # u runs level on the walls, v runs up
        a, b = ((1, 2), (0, 2), (0, 1))[axis]
        for sign in (-1.0, 1.0):
            normal = sign * axes[axis]
            corner = centre + half[axis] * normal - half[a] * axes[a] - half[b] * axes[b]
            rows.append((normal, corner, axes[a], axes[b], 2 * half[[a, b]]))
    normal, corner, u, v, extent = (np.stack(part) for part in zip(*rows, strict=True))
    return normal, corner, u, v, extent
