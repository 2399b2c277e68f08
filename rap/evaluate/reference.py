"""Poses of a reference, and how far others are from them: what half precision or an export costs.

The true poses say how good a network is; the same network in fp32 says what its twin gives away.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from rap.evaluate.errors import TRUE_TOLERANCE, PoseErrors, is_rigid, median, pose_errors
from rap.evaluate.estimates import read_estimates
from rap.scene import DataError, Scene


@dataclass(frozen=True, eq=False)
class Reference:
    """Poses of all test frames, and where they were read."""

    source: str
    world_from_camera: Float64[Tensor, "n 4 4"]


@dataclass(frozen=True, eq=False)
class Difference:
    """How far estimates are from a reference, frame by frame."""

    source: str
    """Where the reference was read."""
    errors: PoseErrors

    def numbers(self) -> dict[str, float]:
        """Medians and largest of both errors, in metres and degrees."""
        translation, rotation = self.errors.translation_m, self.errors.rotation_deg
        return {
            "median_translation_m": median(translation),
            "median_rotation_deg": median(rotation),
            "max_translation_m": float(translation.max()),
            "max_rotation_deg": float(rotation.max()),
        }

    def text(self) -> str:
        """The same for a person, in millimetres."""
        found = self.numbers()
        return (
            f"off {self.source} by a median of {1e3 * found['median_translation_m']:.3f} mm, "
            f"{found['median_rotation_deg']:.4f} deg (at most "
            f"{1e3 * found['max_translation_m']:.3f} mm, {found['max_rotation_deg']:.4f} deg)"
        )


def read_reference(scene: Scene, path: Path) -> Reference:
    """Estimates of a scene's test frames, as `read_estimates` reads them.

    Raises DataError for files that cannot be read, and for a frame without an estimate or with one
    that is no pose.
    """
    names = [frame.name for frame in scene.test]
    found = read_estimates(path, names)
    missing = (~torch.isfinite(found).all(-1).all(-1)).nonzero().flatten().tolist()
    if missing:
        raise DataError(
            f"{path}: no pose for {names[missing[0]]} ({len(missing)} of {len(names)} test frames "
            "lack one); a reference has all"
        )
    wrong = (~is_rigid(found, TRUE_TOLERANCE)).nonzero().flatten().tolist()
    if wrong:
        raise DataError(
            f"{path}: the pose of {names[wrong[0]]} is no rigid transform: "
            f"{found[wrong[0], :3].tolist()}"
        )
    return Reference(str(path), found)


def difference(predicted: Float64[Tensor, "n 4 4"], reference: Reference) -> Difference:
    """How far estimates of the same frames are from the reference; infinite where one failed."""
    return Difference(reference.source, pose_errors(predicted, reference.world_from_camera))
