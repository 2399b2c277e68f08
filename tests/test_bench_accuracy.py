"""The arithmetic of the accuracy benchmarks."""

import pytest
import torch

from benchmarks.bench_accuracy import recall, seconds_to
from rap.evaluate import PoseErrors

EPOCHS = [(2.0, 70.0), (1.0, 31.0), (1.5, 29.0), (1.0, 40.0)]


@pytest.mark.parametrize(("target", "expected"), [(30.0, 4.5), (80.0, 2.0), (10.0, None)])
def test_time_to_a_target_is_that_of_its_first_epoch(target: float, expected: float | None) -> None:
    """Everything before it counts; what is never reached has no time."""
    assert seconds_to(target, EPOCHS) == expected


def test_frame_is_recalled_when_both_errors_are_small() -> None:
    """Not finite is not small."""
    far, near = float("inf"), 0.1
    errors = PoseErrors(
        torch.tensor([near, near, far, near], dtype=torch.float64),
        torch.tensor([1.0, 90.0, 1.0, far], dtype=torch.float64),
    )
    assert recall(errors) == 0.25
