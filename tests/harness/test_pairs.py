"""The paired rule: what it decides, when it looks, and what must not matter to it."""

import math
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness import pairs
from benchmarks.harness.pairs import (
    BUDGET,
    LOOKS,
    SCREEN_BLOCKS,
    SCREEN_LEVEL,
    PairedVerdict,
    Route,
    State,
    decide_pairs,
    estimate,
)

MOST = SCREEN_BLOCKS + LOOKS[-1]
QUIET = (0.0, 0.002, -0.001, 0.001, -0.002, 0.0015)
RATIOS = st.lists(st.floats(-0.5, 0.5), min_size=0, max_size=MOST)


def decide(
    log_ratios: Sequence[float], *, screened: bool = False, coarse: bool = False
) -> PairedVerdict:
    """One of 30 gated times, 3 % of interest."""
    return decide_pairs(
        log_ratios, smallest_effect=0.03, num_gated=30, screened=screened, coarse=coarse
    )


def noise(num: int, spread: float, around: float = 0.0) -> list[float]:
    """As many quantiles of a normal distribution, each low one beside its high counterpart."""
    normal = statistics.NormalDist(around, spread)
    values = [normal.inv_cdf((n + 0.5) / num) for n in range(num)]
    both = zip(values[: num // 2], reversed(values), strict=False)
    return [value for pair in both for value in pair] + values[num // 2 : (num + 1) // 2]


def test_estimate_is_yuens() -> None:
    """Against the definition, step by step, for ten values (two cut at each end)."""
    values = [0.1, 9.0, 0.3, 0.2, -7.0, 0.4, 0.0, 0.6, 0.5, 0.7]
    found = estimate(values)
    winsorised = [0.1] * 3 + [0.2, 0.3, 0.4, 0.5] + [0.6] * 3
    ordered = sorted(values)
    assert ordered[2:8] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert found.location == pytest.approx(statistics.fmean(ordered[2:8]))
    spread = statistics.variance(winsorised)
    assert found.error == pytest.approx(math.sqrt(9 * spread / (6 * 5)))
    assert (found.degrees, found.num) == (5, 10)


def test_p_and_bound_agree() -> None:
    """The upper 95 % bound is the limit that has p = 0.95."""
    found = estimate([0.01, 0.02, 0.015, 0.03, 0.0, 0.01, 0.02, 0.012])
    assert found.p_above(found.bound(0.95)) == pytest.approx(0.95)
    assert found.p_above(found.bound(0.05)) == pytest.approx(0.05)


def test_unchanged_quiet_code_passes_after_the_screen() -> None:
    """Six blocks are enough where noise is small."""
    found = decide(QUIET)
    assert (found.state, found.route, found.num_blocks) == (State.PASS, Route.SCREEN, 6)
    assert found.high < 0.03


@pytest.mark.parametrize("num", range(SCREEN_BLOCKS))
def test_nothing_is_decided_before_six_blocks(num: int) -> None:
    """Not even a doubling of the time; the blocks still to come are told."""
    found = decide([0.7] * num)
    assert (found.state, found.missing_blocks) == (State.MORE, SCREEN_BLOCKS - num)


def test_slowdown_fails_at_the_first_look() -> None:
    """5 % on a quiet machine: a suspect after six blocks, red after eight fresh ones."""
    slow = [0.05 + value for value in QUIET]
    suspect = decide(slow)
    assert (suspect.state, suspect.route, suspect.missing_blocks) == (State.MORE, Route.SUSPECT, 8)
    assert decide(slow + noise(7, 0.002, 0.05)).state is State.MORE
    found = decide(slow + noise(8, 0.002, 0.05))
    assert (found.state, found.num_blocks) == (State.FAIL, 8)
    assert found.effect == pytest.approx(math.expm1(0.05), rel=0.05)
    assert found.p < BUDGET


def test_suspect_that_was_chance_passes() -> None:
    """The fresh blocks decide alone: the blocks that made it a suspect are not counted again."""
    found = decide([0.05 + value for value in QUIET] + noise(8, 0.004))
    assert (found.state, found.route) == (State.PASS, Route.SUSPECT)
    assert abs(found.effect) < 0.005


def test_noisy_times_end_inconclusive() -> None:
    """Nothing more is asked for, and the detectable effect says why."""
    found = decide(noise(SCREEN_BLOCKS, 0.2) + noise(LOOKS[-1], 0.2))
    assert (found.state, found.missing_blocks) == (State.INCONCLUSIVE, 0)
    assert found.detectable > 0.1


def test_hopeless_time_is_given_up() -> None:
    """Before the last look, with the slowdown that all its blocks could have found."""
    wide = [0.02 + value for value in noise(SCREEN_BLOCKS + LOOKS[0], 0.2)]
    found = decide(wide, coarse=True)
    assert (found.state, found.missing_blocks) == (State.INCONCLUSIVE, 0)
    assert found.stopped is not None
    assert 0.1 < found.stopped < found.detectable


def test_coarse_time_that_may_be_slower_goes_on() -> None:
    """What is known to be too noisy is still red where a slowdown is proven."""
    slow = [0.5 + value for value in noise(SCREEN_BLOCKS, 0.05)]
    assert decide(slow, coarse=True).state is State.MORE
    found = decide(slow + noise(8, 0.05, 0.5), coarse=True)
    assert (found.state, found.stopped) == (State.FAIL, None)


@given(RATIOS, st.booleans(), st.booleans())
def test_giving_up_only_takes_decisions_away(
    log_ratios: list[float], screened: bool, coarse: bool
) -> None:
    """A rule that never gives up decides the same, or goes on: no false alarm comes from it."""
    found = decide(log_ratios, screened=screened, coarse=coarse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "FUTILE", 0.0)
        patient = decide(log_ratios, screened=screened)
    assert found.state in (patient.state, State.INCONCLUSIVE)
    assert (found.stopped is not None) or found == patient


def test_open_is_looked_at_three_times() -> None:
    """8, 16, 24 fresh blocks; in between it goes on."""
    wide = noise(SCREEN_BLOCKS, 0.2)
    missing = [decide(wide + [0.1, -0.1] * (n // 2)).missing_blocks for n in (0, 8, 16)]
    assert missing == [8, 8, 8]


def test_stored_screen_is_no_evidence() -> None:
    """Blocks after a stored baseline are all fresh: eight can decide, six cannot."""
    slow = noise(8, 0.001, 0.05)
    assert decide(slow[:6], screened=True).state is State.MORE
    found = decide(slow, screened=True)
    assert (found.state, found.route) == (State.FAIL, Route.STORED)


def test_error_budget_of_the_routes_sums_to_one_percent() -> None:
    """Suspects are 5 % of an unchanged suite; the levels are read off the adjusted p."""
    slow = [0.05 + value for value in QUIET]
    fresh = noise(8, 0.004, 0.015)
    plain = estimate(fresh).p_above(math.log1p(0.005))
    suspect = decide(slow + fresh)
    opened = decide(noise(6, 0.2) + fresh)
    assert (suspect.route, opened.route) == (Route.SUSPECT, Route.OPEN)
    levels = [len(LOOKS) * plain * BUDGET / found.p for found in (suspect, opened)]
    assert 30 * (SCREEN_LEVEL * levels[0] + levels[1]) == pytest.approx(BUDGET)


def test_faster_is_reported_and_never_red() -> None:
    """A clear speed-up passes and is named."""
    found = decide([-0.10 + value for value in QUIET])
    assert (found.state, found.faster) == (State.PASS, True)
    assert not decide(QUIET).faster


def test_equal_ratios_are_decided() -> None:
    """A clock without noise (tests, counters) has no spread; that is no reason to wonder."""
    assert decide([0.0] * 6).state is State.PASS
    assert decide([0.1] * 14).state is State.FAIL


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    """No order of such numbers means anything."""
    with pytest.raises(ValueError, match="finite"):
        decide([*QUIET[:5], value])


def test_nonsense_limits_are_refused() -> None:
    """A smallest effect within the margin could never pass."""
    with pytest.raises(ValueError, match="smallest_effect"):
        decide_pairs(QUIET, smallest_effect=0.005, num_gated=1)
    with pytest.raises(ValueError, match="num_gated"):
        decide_pairs(QUIET, smallest_effect=0.03, num_gated=0)


@given(RATIOS, st.lists(st.floats(-0.5, 0.5), max_size=4))
def test_a_decision_stands(log_ratios: list[float], more: list[float]) -> None:
    """Blocks taken after the decision do not change it: no peeking until it suits."""
    found = decide(log_ratios)
    if found.state is not State.MORE:
        assert decide(log_ratios + more) == found


@given(RATIOS)
def test_swapped_arms_are_never_red_twice(log_ratios: list[float]) -> None:
    """What is slower one way round is not slower the other way round."""
    swapped = [-value for value in log_ratios]
    states = {decide(log_ratios).state, decide(swapped).state}
    assert states != {State.FAIL}


@given(RATIOS, st.floats(0.0, 0.3))
def test_slower_is_never_judged_better(log_ratios: list[float], loss: float) -> None:
    """Adding a loss to every block never turns a fail of the same stage into a pass.

    At most into giving up: a first look just below the limits may promise neither end.
    """
    found = decide(log_ratios, screened=True)
    worse = decide([value + loss for value in log_ratios], screened=True)
    if found.state is State.FAIL:
        assert worse.state in (State.FAIL, State.INCONCLUSIVE)


@given(RATIOS.filter(bool))
def test_numbers_are_in_order(log_ratios: list[float]) -> None:
    """The interval holds the effect, p is a probability, what can be detected is above 0.5 %."""
    found = decide(log_ratios)
    assert found.low <= found.effect <= found.high
    assert 0.0 <= found.p <= 1.0
    assert found.detectable >= 0.0049
