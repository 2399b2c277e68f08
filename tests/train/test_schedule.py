"""Learning-rate factors, sizes and reach by epoch, and the moving average of weights."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rap.config import Config, Schedule
from rap.train.schedule import (
    FINAL_FACTOR,
    average_weight,
    image_height,
    learning_rate_factor,
    trunk_learns,
    update_average,
    view_reach,
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


@pytest.mark.parametrize(("share", "num_small"), [(0.0, 0), (0.25, 2), (0.3, 2), (1.0, 8)])
def test_images_are_small_in_the_first_share_of_a_run(share: float, num_small: int) -> None:
    """Then they have the size of the settings; with a share of 0 they always do."""
    config = Config()
    train = replace(config.train, epochs=8, low_resolution_share=share, low_resolution_height=60)
    heights = [image_height(replace(config, train=train), epoch) for epoch in range(8)]
    assert heights == [60] * num_small + [240] * (8 - num_small)


@pytest.mark.parametrize(("share", "num_learning"), [(1.0, 8), (0.5, 4), (0.0, 0)])
def test_the_trunk_learns_up_to_its_share_of_a_run(share: float, num_learning: int) -> None:
    """By default always."""
    config = Config()
    config = replace(config, train=replace(config.train, epochs=8, freeze_after=share))
    learning = [trunk_learns(config, epoch) for epoch in range(8)]
    assert learning == [True] * num_learning + [False] * (8 - num_learning)
    assert Config().train.freeze_after == 1


@pytest.mark.parametrize(
    ("share", "start", "expected"),
    [(0.0, 0.25, [1, 1, 1, 1]), (1.0, 0.0, [0, 0.25, 0.5, 0.75]), (0.5, 3.0, [3, 2, 1, 1])],
)
def test_views_come_to_their_reach_evenly(
    share: float, start: float, expected: list[float]
) -> None:
    """From near or from far; with a share of 0 they have it from the first epoch on."""
    config = Config()
    views = replace(config.views, curriculum_share=share, curriculum_start=start)
    config = replace(config, views=views, train=replace(config.train, epochs=4))
    assert [view_reach(config, epoch) for epoch in range(4)] == expected


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
