"""The figures of appearance: arms differ in light alone, and held-out pictures gain by it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import lamps

CPU = torch.device("cpu")
SMALL = lamps.small()


@pytest.mark.parametrize("size", [SMALL, lamps.large()], ids=["small", "large"])
def test_arms_differ_in_the_light_of_views_alone(size: lamps.Size) -> None:
    """The same seed, steps and views; without variation all views have the mean appearance."""
    off, on = (lamps.trained_with(size.training, 5, varied) for varied in (False, True))
    assert off.views.appearance_scale == 0
    assert on.views.appearance_scale > 0
    assert replace(on, views=off.views) == off
    assert off.train.seed == 5
    assert size.fit.appearance_dim > 0


def test_both_arms_train_and_answer(tmp_path: Path) -> None:
    """A training of one epoch on a splat of a few steps gives errors that differ by the light."""
    short = replace(
        SMALL, unseen=replace(SMALL.unseen, num_train=8, num_test=3, width=64, height=48),
        fit=replace(SMALL.fit, iterations=20, height=48, max_gaussians=200, appearance_lr=0.05),
        training=replace(
            SMALL.training, train=replace(SMALL.training.train, epochs=2),
            views=replace(SMALL.training.views, per_image=1),
        ),
    )  # fmt: skip
    off, on = (
        lamps.localised(short, 1, varied, CPU, tmp_path / str(varied)) for varied in (False, True)
    )
    assert off != on
    assert 0 < on.translation_m < 10


@pytest.mark.slow
def test_held_out_pictures_gain_by_appearance() -> None:
    """With lamps never seen: 1 dB above what exposure alone explains, 3 dB above no light."""
    without = lamps.held_out(SMALL.unseen, replace(SMALL.fit, appearance_dim=0), CPU)
    with_it = lamps.held_out(SMALL.unseen, SMALL.fit, CPU)
    assert with_it.relit.median() > without.exposed.median() + 1
    assert with_it.relit.median() > without.mean.median() + 3
