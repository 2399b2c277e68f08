"""Pose errors and their summary: right, symmetric, and refused where they would mean nothing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rap.evaluate.errors import PoseErrors, ScoreError, pose_errors, score, summarise
from rap.geometry import random_rotations_within, rigid, rotation_from_vector


def _poses(num: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotations = random_rotations_within(num, 180.0, generator)
    return rigid(rotations, torch.randn(num, 3, generator=generator)).double()


def _errors(translation_m: list[float], rotation_deg: list[float]) -> PoseErrors:
    return PoseErrors(
        torch.tensor(translation_m, dtype=torch.float64),
        torch.tensor(rotation_deg, dtype=torch.float64),
    )


@pytest.mark.parametrize("angle_deg", [1e-7, 1e-3, 1.0, 90.0, 179.999])
def test_known_offsets_come_back(angle_deg: float) -> None:
    """A pose turned by a known angle and shifted by a known distance has exactly these errors."""
    true = _poses(5, 0)
    axis = torch.nn.functional.normalize(torch.tensor([[1.0, -2.0, 0.5]]).double(), dim=-1)
    turn = rotation_from_vector(axis * math.radians(angle_deg))
    offset = rigid(turn, torch.zeros(1, 3).double())
    predicted = true @ offset
    predicted[:, :3, 3] += torch.tensor([0.3, 0.0, -0.4]).double()
    errors = pose_errors(predicted, true)
    torch.testing.assert_close(errors.translation_m, torch.full((5,), 0.5).double())
    expected = torch.full((5,), angle_deg).double()
    torch.testing.assert_close(errors.rotation_deg, expected, rtol=1e-6, atol=1e-12)


@given(st.integers(0, 2**31))
def test_errors_are_invariant_under_a_common_rigid_motion(seed: int) -> None:
    """Moving the world moves no error, and neither does swapping estimate and truth."""
    predicted, true, motion = _poses(4, seed), _poses(4, seed + 1), _poses(1, seed + 2)
    plain, moved = pose_errors(predicted, true), pose_errors(motion @ predicted, motion @ true)
    swapped = pose_errors(true, predicted)
    for other in (moved, swapped):
        torch.testing.assert_close(plain.translation_m, other.translation_m, atol=1e-5, rtol=0)
        torch.testing.assert_close(plain.rotation_deg, other.rotation_deg, atol=1e-3, rtol=0)


def test_computes_in_float64() -> None:
    """Estimates in float32 are scored in float64, like the truth."""
    errors = pose_errors(_poses(2, 0).float(), _poses(2, 1))
    assert errors.translation_m.dtype == errors.rotation_deg.dtype == torch.float64


@pytest.mark.parametrize("broken", ["nan", "inf", "zero rotation", "mirror"])
def test_unusable_estimates_count_as_infinite(broken: str) -> None:
    """A frame without a usable estimate is infinitely wrong; the others keep their errors."""
    true, predicted = _poses(3, 0), _poses(3, 1)
    if broken == "zero rotation":
        predicted[1, :3, :3] = 0.0
    elif broken == "mirror":
        predicted[1, :3, 0] *= -1.0
    else:
        predicted[1, 0, 3] = float(broken)
    errors = pose_errors(predicted, true)
    assert torch.isinf(errors.translation_m).tolist() == [False, True, False]
    assert torch.isinf(errors.rotation_deg).tolist() == [False, True, False]


def test_refuses_true_poses_that_are_no_poses() -> None:
    """A scaled or non-finite true rotation is named by its index instead of being scored."""
    for value in (2.0, float("nan")):
        true = _poses(3, 0)
        true[2, :3, :3] *= value
        with pytest.raises(ScoreError, match="true pose 2 of 3"):
            pose_errors(_poses(3, 1), true)


def test_summary_by_hand() -> None:
    """Medians of an even count average the middle two, and recalls need both thresholds."""
    summary = summarise(_errors([0.005, 0.015, 0.04, 0.2], [0.5, 3.0, 1.0, 0.1]))
    assert summary.median_translation_m == pytest.approx(0.0275)
    assert summary.median_rotation_deg == pytest.approx(0.75)
    assert summary.mean_translation_m == pytest.approx(0.065)
    assert summary.mean_rotation_deg == pytest.approx(1.15)
    assert list(summary.recalls.values()) == [0.75, 0.75, 0.25, 0.25]
    assert list(summary.recalls) == ["10cm/5deg", "5cm/5deg", "2cm/2deg", "1cm/1deg"]
    assert (summary.num, summary.num_failures) == (4, 0)


def test_failures_lower_recall_and_raise_the_median() -> None:
    """Leaving a frame out never helps: it stays in every denominator."""
    inf = float("inf")
    summary = summarise(_errors([0.01, 0.02, inf], [0.5, 0.6, inf]))
    assert summary.median_translation_m == 0.02
    assert summary.recalls["10cm/5deg"] == pytest.approx(2 / 3)
    assert summary.mean_translation_m == inf
    assert summary.num_failures == 1


@pytest.mark.parametrize(
    ("translation_m", "rotation_deg", "message"),
    [
        ([], [], "test set is empty"),
        ([0.1, 0.2], [0.0, 0.0], "rotation error of all 2 frames is 0"),
        ([0.0, 0.0], [1.0, 2.0], "translation error of all 2 frames is 0"),
        ([1e-7, 2e-7], [1e-6, 0.0], "translation error of all 2 frames is 0"),
        ([0.1, torch.inf, torch.inf], [0.1, torch.inf, torch.inf], "2 of 3 frames have no usable"),
        ([0.1, torch.inf], [0.1, torch.inf], "1 of 2 frames have no usable"),
    ],
)
def test_refuses_scores_that_mean_nothing(
    translation_m: list[float], rotation_deg: list[float], message: str
) -> None:
    """An empty set, an exact zero and an infinite median are errors, not numbers."""
    with pytest.raises(ScoreError, match=message):
        summarise(_errors(translation_m, rotation_deg))


def test_score_follows_its_rule() -> None:
    """5 cm and 5 degrees weigh the same, a diverged model is infinite, nothing is an error."""
    assert score(_errors([0.05], [0.0])) == pytest.approx(1.0)
    assert score(_errors([0.0, 0.0, 9.0], [10.0, 0.0, 10.0])) == pytest.approx(2.0)
    assert score(_errors([torch.inf], [torch.inf])) == torch.inf
    with pytest.raises(ScoreError, match="validation set is empty"):
        score(_errors([], []))
