"""Pose errors and what is said about a set of them.

Everything is float64. An estimate that is missing, not finite or no rotation counts as infinitely
wrong, so that failing on hard frames never improves a number.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rap.geometry import orthonormality_error, rotation_angle_deg

RECALL_THRESHOLDS = {
    "10cm/5deg": (0.10, 5.0),
    "5cm/5deg": (0.05, 5.0),
    "2cm/2deg": (0.02, 2.0),
    "1cm/1deg": (0.01, 1.0),
}
"""Name: largest translation error in metres and rotation error in degrees that count as found."""

SCORE_RULE = "median_translation_m / 0.05 + median_rotation_deg / 5"
"""The one rule by which weights are selected; `score` computes it."""

# A rotation written with seven digits is off by 1e-7, one that went through fp16 by 2e-3.
TRUE_TOLERANCE = 1e-3
_PREDICTED_TOLERANCE = 1e-2
# True poses are known to millimetres at best, and files hold six digits.
_LEAST_TRANSLATION_M = 1e-5
_LEAST_ROTATION_DEG = 1e-4


class ScoreError(ValueError):
    """A score that would mean nothing; the message names the fact."""


@dataclass(frozen=True, eq=False)
class PoseErrors:
    """Per frame, in the order of the poses given; infinite where an estimate failed."""

    translation_m: Float64[Tensor, "n"]
    rotation_deg: Float64[Tensor, "n"]


@dataclass(frozen=True)
class Summary:
    """What a table shows of many errors; the two medians are taken apart from each other."""

    median_translation_m: float
    median_rotation_deg: float
    mean_translation_m: float
    """Infinite as soon as one frame failed."""
    mean_rotation_deg: float
    recalls: dict[str, float]
    """Share of frames within both thresholds, by the names of RECALL_THRESHOLDS."""
    num: int
    num_failures: int


def pose_errors(predicted: Float[Tensor, "n 4 4"], true: Float[Tensor, "n 4 4"]) -> PoseErrors:
    """Distance of the camera centres and geodesic angle of the rotations, on the CPU.

    Raises ScoreError when a true pose is not a finite rigid transform.
    """
    predicted, true = predicted.detach().cpu().double(), true.detach().cpu().double()
    valid = is_rigid(true, TRUE_TOLERANCE)
    if not valid.all():
        index = int((~valid).nonzero()[0])
        raise ScoreError(
            f"true pose {index} of {len(true)} is not a finite rigid transform, so nothing can be "
            f"scored against it: {true[index, :3].tolist()}"
        )
    found = is_rigid(predicted, _PREDICTED_TOLERANCE)
    translation = torch.full((len(true),), torch.inf, dtype=torch.float64)
    rotation = translation.clone()
    translation[found] = torch.linalg.vector_norm(
        predicted[found, :3, 3] - true[found, :3, 3], dim=-1
    )
    rotation[found] = rotation_angle_deg(predicted[found, :3, :3], true[found, :3, :3])
    return PoseErrors(translation, rotation)


def summarise(errors: PoseErrors) -> Summary:
    """Medians, means and recalls.

    Raises ScoreError when there are no frames, when more than half of them failed, and when all
    errors are zero up to the digits of a text file: nothing measured does that, but the truth
    scored against itself does, and so do numbers from a comparison that is broken.
    """
    translation, rotation = errors.translation_m, errors.rotation_deg
    if len(translation) == 0:
        raise ScoreError("the test set is empty: there is nothing to score")
    for name, values, least in (
        ("translation", translation, _LEAST_TRANSLATION_M),
        ("rotation", rotation, _LEAST_ROTATION_DEG),
    ):
        if (values < least).all():
            raise ScoreError(
                f"the {name} error of all {len(values)} frames is 0 (below {least}): the estimates "
                "are a copy of the true poses, or were compared wrongly"
            )
    failures = int((~torch.isfinite(translation)).sum())
    medians = median(translation), median(rotation)
    if torch.inf in medians:
        raise ScoreError(
            f"{failures} of {len(translation)} frames have no usable estimate, so the median error "
            "is infinite"
        )
    recalls = {
        name: ((translation <= limit_m) & (rotation <= limit_deg)).double().mean().item()
        for name, (limit_m, limit_deg) in RECALL_THRESHOLDS.items()
    }
    means = translation.mean().item(), rotation.mean().item()
    return Summary(*medians, *means, recalls, len(translation), failures)


def score(errors: PoseErrors) -> float:
    """SCORE_RULE: lower is better, infinite when more than half of the frames failed.

    Raises ScoreError when there are no frames.
    """
    if len(errors.translation_m) == 0:
        raise ScoreError("the validation set is empty: there is nothing to score")
    return median(errors.translation_m) / 0.05 + median(errors.rotation_deg) / 5.0


def is_rigid(poses: Float64[Tensor, "n 4 4"], tolerance: float) -> Tensor:
    """Which poses are finite and hold a rotation, as booleans of shape `n`."""
    finite = torch.isfinite(poses).all(-1).all(-1)
    rotations = torch.where(finite[:, None, None], poses[:, :3, :3], 0.0)
    return finite & (orthonormality_error(rotations) <= tolerance)


def median(values: Float64[Tensor, "n"]) -> float:
    """Mean of the two middle values; unlike torch.quantile it is right beside infinities."""
    ordered = values.sort().values
    return ((ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2).item()
