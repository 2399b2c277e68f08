"""Medians, intervals and Student's t against known values and properties."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness import statistics as ours

TIMES = st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=30)

# One-sided 95 % and 99.5 % points from the usual printed table.
TABLE = [(1, 6.314, 63.657), (2, 2.920, 9.925), (5, 2.015, 4.032), (30, 1.697, 2.750)]


@pytest.mark.parametrize(("degrees", "at_95", "at_995"), TABLE)
def test_t_quantile_matches_the_printed_table(degrees: int, at_95: float, at_995: float) -> None:
    """To the three decimals that tables have."""
    assert ours.t_quantile(0.95, degrees) == pytest.approx(at_95, abs=6e-4)
    assert ours.t_quantile(0.995, degrees) == pytest.approx(at_995, abs=6e-4)


@given(st.floats(0.001, 0.999), st.floats(0.5, 500.0))
def test_t_quantile_inverts_t_cdf(probability: float, degrees: float) -> None:
    """For fractional degrees of freedom, too."""
    back = ours.t_cdf(ours.t_quantile(probability, degrees), degrees)
    assert back == pytest.approx(probability, abs=1e-9)


def test_impossible_probability_is_refused() -> None:
    """A quantile at 1 would be infinite."""
    with pytest.raises(ValueError, match="t_quantile"):
        ours.t_quantile(1.0, 3)


@given(TIMES)
def test_quantiles_stay_within_the_data_and_are_ordered(times: list[float]) -> None:
    """No interpolation leaves the data."""
    q25, q50, q75 = (ours.quantile(times, q) for q in (0.25, 0.5, 0.75))
    assert min(times) <= q25 <= q50 <= q75 <= max(times)


@given(TIMES, st.floats(0.01, 100.0))
def test_location_scales_with_its_unit(times: list[float], factor: float) -> None:
    """Seconds or milliseconds: the same ratio."""
    scaled = ours.log_median([factor * time for time in times])
    assert scaled == pytest.approx(factor * ours.log_median(times), rel=1e-9)


def test_quantile_of_nothing_is_refused() -> None:
    """An empty list has no median."""
    with pytest.raises(ValueError, match="no values"):
        ours.median([])


def test_geometric_mean_of_nothing_is_one() -> None:
    """No canary: no correction."""
    assert ours.geometric_mean([]) == 1.0
    assert ours.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)


def test_interval_of_one_value_is_empty() -> None:
    """Then only the policy's margin is left."""
    assert ours.median_half_width([0.3]) == 0.0


def test_interval_covers_a_repetition_as_often_as_it_says() -> None:
    """The median of three new seeds is worse by more than the half width in at most 5 %."""
    draw = random.Random(7)
    trials = 4000
    beyond = 0
    for _ in range(trials):
        stored = [draw.gauss(1.0, 0.1) for _ in range(3)]
        again = [draw.gauss(1.0, 0.1) for _ in range(3)]
        beyond += ours.median(again) > ours.median(stored) + ours.median_half_width(stored)
    assert beyond / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
