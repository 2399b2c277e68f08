"""The measuring loop on a virtual clock: warm-up, batches, caps, and what a fixed number means."""

import math
import random
from collections.abc import Callable

import pytest

from benchmarks.harness.clock import Budget, Loop, Timing, host_clock, only_scatters, steady, take

BUDGET = Budget(3, warm_s=0.1, warm_cap_s=2.0, rounds=5, max_rounds=50, time_s=0.5, cap_s=3.0)
Spend = Callable[[float], None]


class Work:
    """A step of known lengths, taken in turn, the last one for ever."""

    def __init__(self, spend: Spend, *lengths: float) -> None:
        self.calls = 0
        self._spend, self._lengths = spend, lengths

    def __call__(self) -> int:
        """Take time; return which call it was."""
        self._spend(self._lengths[min(self.calls, len(self._lengths) - 1)])
        self.calls += 1
        return self.calls


def run(work: Work, rounds: int | None = None) -> Timing[int]:
    """Measure the work with the small budget."""
    return take(Loop(work, host_clock), BUDGET, rounds, lambda: None)


def test_spans_are_the_work_s_own(spend: Spend) -> None:
    """Rounds fill their time, and nothing of the loop is in a span."""
    timing = run(Work(spend, 0.05))
    assert [taken.wall_s for taken in timing.rounds] == pytest.approx([0.05] * 10, rel=1e-3)
    assert timing.warm_up == "verified"


def test_first_call_is_a_metric_of_its_own(spend: Spend) -> None:
    """Compilation does not enter the rounds."""
    timing = run(Work(spend, 1.0, 0.05))
    assert timing.first_call_s == pytest.approx(1.0, rel=1e-3)
    assert max(taken.wall_s for taken in timing.rounds) < 0.06


def test_slow_start_is_warmed_away(spend: Spend) -> None:
    """Warm-up goes on until two windows agree: here after ten calls that get faster."""
    timing = run(Work(spend, *[0.2 * 0.87**n for n in range(10)], 0.05))
    assert {round(taken.wall_s, 3) for taken in timing.rounds} == {0.05}


def test_work_that_keeps_changing_is_unsteady(spend: Spend) -> None:
    """At the cap it is marked, never silently accepted."""
    growing = [0.05 * 1.02**n for n in range(200)]
    assert run(Work(spend, *growing)).warm_up == "unsteady"


def test_slow_work_stops_early(spend: Spend) -> None:
    """Two-second calls are not repeated five times: three rounds, and marked unsteady."""
    work = Work(spend, 2.0)
    timing = run(work)
    assert (len(timing.rounds), timing.warm_up) == (3, "unsteady")
    assert work.calls == 5


def test_short_work_is_batched(spend: Spend) -> None:
    """Twenty calls of 0.1 ms share one reading of the clocks."""
    timing = run(Work(spend, 0.0001))
    assert timing.rounds[0].wall_s == pytest.approx(0.0001, rel=0.02)
    assert len(timing.rounds) <= BUDGET.max_rounds
    assert timing.last - timing.first > 20 * len(timing.rounds)


def test_nothing_is_batched_around_a_preparation(spend: Spend) -> None:
    """Each call sees its own preparation, whose time does not count."""
    prepared: list[int] = []
    work = Work(spend, 0.0001)

    def prepare() -> None:
        prepared.append(work.calls)
        spend(0.01)

    timing = take(Loop(work, host_clock, prepare), BUDGET, 4, lambda: None)
    assert prepared == [0, 1, 2, 3, 4, 5]
    assert timing.rounds[-1].wall_s == pytest.approx(0.0001, rel=0.02)


def test_one_round_is_one_call(spend: Spend) -> None:
    """Work of minutes is run once, and that is the measurement."""
    work = Work(spend, 60.0, 1.0)
    timing = run(work, rounds=1)
    assert (work.calls, timing.first, timing.last, timing.warm_up) == (1, 1, 1, "fixed")
    assert timing.rounds[0].wall_s == timing.first_call_s == pytest.approx(60.0)


def test_fixed_rounds_follow_two_calls(spend: Spend) -> None:
    """They are the warm-up."""
    work = Work(spend, 1.0, 0.3)
    timing = run(work, rounds=4)
    assert (work.calls, len(timing.rounds), timing.last) == (6, 4, 6)


@pytest.mark.parametrize(("rounds", "expected"), [(None, 2), (3, 2), (1, 1)])
def test_memory_is_read_after_the_second_call(
    spend: Spend, rounds: int | None, expected: int
) -> None:
    """An optimiser's state exists from the second step on."""
    work = Work(spend, 0.05)
    seen: list[int] = []
    take(Loop(work, host_clock), BUDGET, rounds, lambda: seen.append(work.calls))
    assert seen == [expected]


@pytest.mark.parametrize(
    ("times", "expected"),
    [([1.0] * 5, False), ([1.0] * 6, True), ([1.0, 1, 1, 1.004, 1.004, 1.004], True),
     ([1.0, 1, 1, 1.006, 1.006, 1.006], False), ([9.0, 9, 9, 1, 1, 1, 1, 5, 1], True)],
)  # fmt: skip
def test_steady_compares_the_last_two_windows(times: list[float], expected: bool) -> None:
    """Within half a percent, outliers ignored, older rounds forgotten."""
    assert steady(times, 3) is expected


def noisy(scatter: float, drift: float, num: int = 40) -> list[list[float]]:
    """Warm-ups whose rounds scatter and get slower by these shares."""
    noise = random.Random(0)
    return [[math.exp(drift * n + noise.gauss(0, scatter)) for n in range(num)] for _ in range(400)]


def test_scatter_is_no_drift() -> None:
    """Rounds that jump by 10 % and go nowhere are told from those that change."""
    assert sum(only_scatters(times, 5) for times in noisy(0.1, 0.0)) > 0.6 * 400


@pytest.mark.parametrize(("scatter", "drift"), [(0.01, 0.004), (0.1, 0.04), (0.0, 0.002)])
def test_a_drift_is_found_in_scatter(scatter: float, drift: float) -> None:
    """Of 0.4 steps' scatter a round, over ten rounds, in nineteen of twenty."""
    assert sum(only_scatters(times, 5) for times in noisy(scatter, drift)) < 0.05 * 400


def test_a_level_that_alternates_is_no_excuse() -> None:
    """Rounds of two kinds in turn, each 4 % faster than its last, are still warming up."""
    times = [(1.0 + 0.5 * (n % 2)) * 0.96**n for n in range(40)]
    assert not only_scatters(times, 5)


def test_few_rounds_tell_nothing() -> None:
    """Less than two windows are unsteady."""
    assert not only_scatters([1.0] * 9, 5)


def test_scattered_is_told_from_verified(spend: Spend) -> None:
    """At the cap: noise that never agrees within half a percent."""
    noise = random.Random(1)
    lengths = [0.05 * math.exp(noise.gauss(0, 0.1)) for _ in range(200)]
    assert run(Work(spend, *lengths)).warm_up in ("scattered", "verified")
    growing = [0.05 * 1.05**n * math.exp(noise.gauss(0, 0.02)) for n in range(200)]
    assert run(Work(spend, *growing)).warm_up == "unsteady"
