"""A posed photo collection: what every reader produces and everything else consumes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, UInt8
from torch import Tensor

from rap.camera import Camera


class DataError(ValueError):
    """A scene that cannot be used; the message names the file, the value and what is accepted."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One posed photograph; image and depth are files, or arrays for a scene kept in memory."""

    name: str
    """Unique in its scene, without suffix: `seq-01/frame-000000`."""
    world_from_camera: Float64[Tensor, "4 4"]
    image: Path | UInt8[np.ndarray, "h w 3"]
    depth: Path | Float32[np.ndarray, "h w"] | None = None
    """Camera z in metres as an array; a file holds 16-bit millimetres. 0 means unknown."""
    mask: Path | Bool[np.ndarray, "h w"] | None = None
    """False, in a file black, where the photograph does not count: people, cars, the sky."""
    pose_file: Path | None = None
    """Where the pose was read from."""


@dataclass(frozen=True, eq=False)
class Points:
    """Coloured surface points in world coordinates."""

    xyz: Float32[Tensor, "n 3"]
    rgb: UInt8[Tensor, "n 3"]


@dataclass(frozen=True, eq=False)
class Scene:
    """A named set of frames of one camera, split into training and test."""

    name: str
    source: str
    """Where it came from, for messages and provenance: `7-Scenes folder /data/chess`."""
    camera: Camera
    train: tuple[Frame, ...]
    test: tuple[Frame, ...]
    points: Points | None = None


def poses(frames: Sequence[Frame]) -> Float64[Tensor, "n 4 4"]:
    """`world_from_camera` of many frames, stacked."""
    if not frames:
        return torch.empty(0, 4, 4, dtype=torch.float64)
    return torch.stack([frame.world_from_camera for frame in frames])


def centres(frames: Sequence[Frame]) -> Float64[Tensor, "n 3"]:
    """Camera centres in world coordinates."""
    return poses(frames)[:, :3, 3]


def bounds(
    frames: Sequence[Frame], margin_m: float = 0.0
) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Lowest and highest corner of the box around the camera centres, widened by a margin."""
    points = centres(frames)
    return points.amin(0) - margin_m, points.amax(0) + margin_m
