"""Learning-rate factors and the moving average of weights."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rap.config import Schedule
from rap.train.schedule import (
    FINAL_FACTOR,
    average_weight,
    learning_rate_factor,
    update_average,
)


@given(st.integers(1, 500))
def test_one_cycle_rises_to_one_and_falls_to_its_end(num_steps: int) -> None:
    """The factor stays in (0, 1], peaks at 1, and never rises after the peak."""
    factors = [learning_rate_factor("one_cycle", s, num_steps) for s in range(num_steps)]
    assert 0 < min(factors) <= max(factors) == 1.0
    peak = factors.index(1.0)
    assert all(b <= a for a, b in zip(factors[peak:], factors[peak + 1 :], strict=False))
    if num_steps > 100:
        assert factors[-1] < 2 * FINAL_FACTOR + 1e-3


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_the_other_schedules_leave_the_rate_alone(schedule: Schedule) -> None:
    """Their factor is 1 at every step."""
    assert {learning_rate_factor(schedule, s, 50) for s in range(50)} == {1.0}


def test_average_follows_weights_and_statistics() -> None:
    """Late steps move floats by 1 − decay; counters are copied."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = copy.deepcopy(model)
    linear, norm = average[0], average[1]
    assert isinstance(linear, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.num_batches_tracked is not None
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.add_(1)
    before = linear.weight.clone()
    update_average(average, model, torch.tensor(average_weight(decay=0.9, step=10**6)))
    torch.testing.assert_close(linear.weight, before + 0.1)
    torch.testing.assert_close(norm.running_mean, torch.full((3,), 0.1))
    assert norm.num_batches_tracked.item() == 1


def test_average_forgets_the_random_start() -> None:
    """The first step moves nine tenths of the way, whatever the decay."""
    model, average = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    nn.init.zeros_(average.weight)
    update_average(average, model, torch.tensor(average_weight(decay=0.999, step=0)))
    assert average.weight.item() == pytest.approx(0.9)
