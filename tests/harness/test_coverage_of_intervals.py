"""Every interval covers as often as it says: seeded simulations, three standard errors of slack.

The intervals assume little enough to hold where one process in ten is disturbed, too; there they
may cover more often than they say, not less.
"""

import datetime
import math
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.harness.machine import Machine
from benchmarks.harness.noninferior import bounds
from benchmarks.harness.pairs import LOOKS, SCREEN_BLOCKS, estimate
from benchmarks.harness.record import Record, Session
from benchmarks.harness.sessions import combined
from benchmarks.harness.statistics import median, median_half_width

TRIALS = 2000
Draws = Callable[[np.random.Generator, int], list[float]]


def normal(draw: np.random.Generator, num: int) -> list[float]:
    """What the formulas assume."""
    return draw.normal(0.0, 1.0, num).tolist()


def disturbed(draw: np.random.Generator, num: int) -> list[float]:
    """Differences of two arms in which one process of ten is slowed down, sometimes a lot."""

    def arm() -> np.ndarray:
        slow = draw.random(num) < 0.1
        return draw.normal(0.0, 1.0, num) + slow * draw.exponential(5.0, num)

    return (arm() - arm()).tolist()


def rate(hit: Callable[[np.random.Generator], bool]) -> float:
    """How often something is true."""
    draw = np.random.default_rng(31)
    return sum(hit(draw) for _ in range(TRIALS)) / TRIALS


def slack(expected: float) -> float:
    """Three standard errors of a rate."""
    return 3 * math.sqrt(expected * (1 - expected) / TRIALS)


@pytest.mark.parametrize("confidence", [0.95, 0.975])
@pytest.mark.parametrize("num", [SCREEN_BLOCKS, *LOOKS])
@pytest.mark.parametrize("draws", [normal, disturbed])
def test_bound_of_the_trimmed_mean(draws: Draws, num: int, confidence: float) -> None:
    """The upper bound lies above the truth as often as it says, to 1.5 %."""
    found = rate(lambda draw: estimate(draws(draw, num)).bound(confidence) >= 0.0)
    assert confidence - 0.015 - slack(confidence) <= found
    if draws is normal:
        assert found <= confidence + 0.015 + slack(confidence)


@pytest.mark.parametrize("num", [SCREEN_BLOCKS, *LOOKS])
def test_both_bounds_enclose_the_truth(num: int) -> None:
    """The interval that is shown: 95 % after the screen."""

    def inside(draw: np.random.Generator) -> bool:
        found = estimate(normal(draw, num))
        return found.bound(0.025) <= 0.0 <= found.bound(0.975)

    assert rate(inside) == pytest.approx(0.95, abs=0.015 + slack(0.95))


@pytest.mark.parametrize("num", LOOKS)
def test_smallest_detectable_effect_is_detected_as_often_as_said(num: int) -> None:
    """80 % of the time at its own level, at the effect that the data itself names."""
    level, above = 0.01, 0.5
    draw = np.random.default_rng(37)
    named = median([estimate(normal(draw, num)).detectable(level, above) for _ in range(400)])

    def found(draw: np.random.Generator) -> bool:
        shifted = [value + named for value in normal(draw, num)]
        return estimate(shifted).p_above(above) < level

    assert 0.7 <= rate(found) <= 0.9


@pytest.mark.parametrize("num", [3, 6, 12])
def test_bounds_of_a_mean_over_seeds(num: int) -> None:
    """One-sided 95 % each: accuracy over the same seeds in two arms."""
    found = rate(lambda draw: bounds(normal(draw, num), 0.05, 0.05).high >= 0.0)
    assert found == pytest.approx(0.95, abs=slack(0.95))
    found = rate(lambda draw: bounds(normal(draw, num), 0.05, 0.05).low <= 0.0)
    assert found == pytest.approx(0.95, abs=slack(0.95))


@pytest.mark.parametrize("num", [3, 6])
def test_half_width_covers_a_repetition(num: int) -> None:
    """The median of as many new seeds; for three, the formula is on the safe side."""

    def covered(draw: np.random.Generator) -> bool:
        stored, again = normal(draw, num), normal(draw, num)
        return median(again) <= median(stored) + median_half_width(stored)

    assert 0.95 - slack(0.95) <= rate(covered) <= 0.98


@pytest.mark.parametrize("probability", [0.95, 0.999])
@pytest.mark.parametrize("num", [5, 10])
def test_prediction_interval_covers_one_more_session(num: int, probability: float) -> None:
    """The stored value is a median, which is a little less certain than the mean it stands for."""
    machine = Machine("cpu", "Toy CPU", 2, 2**33, "none", {})

    def covered(draw: np.random.Generator) -> bool:
        times = [math.exp(0.01 * value) for value in normal(draw, num + 1)]
        records = [Record("a", "a", warm_up="verified", metrics={"time_s": t}) for t in times[:-1]]
        sessions = [Session(machine, "room", "abc", (record,)) for record in records]
        stored = combined(sessions, datetime.date(2026, 1, 1))
        limit = stored.noise["a"].reach("time_s", probability)
        return math.log(times[-1] / stored.records["a"].metrics["time_s"]) <= limit

    assert rate(covered) >= probability - 0.01 - slack(probability)
