"""Warm-up by a clock of our own: it goes on until step times have settled, and says if not."""

from collections.abc import Iterator
from itertools import chain, repeat

import pytest
import torch

from rap.profiling import window
from rap.profiling.window import Job, Part, WarmUp, warmed_up


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the module's clock shows."""
    now = [0.0]
    monkeypatch.setattr(window.time, "perf_counter", lambda: now[0])
    return now


def job_of(seconds: Iterator[float], clock: list[float]) -> Job:
    """Steps that take so long by the clock."""

    def step() -> None:
        clock[0] += next(seconds)

    return Job("clockwork", torch.device("cpu"), (Part("step", step),), 1, "steps")


def test_one_compiling_step_is_no_warm_up(clock: list[float]) -> None:
    """A minute of compiling, then three slow steps: all of them are over before anything counts."""
    seconds = chain([60.0, 0.4, 0.2, 0.15], repeat(0.1))
    found = warmed_up(job_of(seconds, clock))
    assert found.settled
    assert found.times[-window._WINDOW :] == pytest.approx((0.1,) * window._WINDOW)
    assert len(found.times) > 4 + window._WINDOW
    assert "the first took 60 s; their times had settled" in str(found)


def test_steady_steps_need_two_windows(clock: list[float]) -> None:
    """The first step never counts."""
    assert len(warmed_up(job_of(repeat(0.1), clock)).times) == 1 + 2 * window._WINDOW


def test_warm_up_ends_without_settling(clock: list[float]) -> None:
    """Steps that get ever slower are measured after the longest warm-up, which is said."""
    growing = (1.2**number for number in range(100))
    found = warmed_up(job_of(growing, clock))
    assert not found.settled
    assert sum(found.times[1:-1]) <= window._WARM_S < sum(found.times[1:])
    assert "NOT settled after 10 s" in str(found)


def test_slow_steps_are_few(clock: list[float]) -> None:
    """Of steps of half a minute one follows the first, and they are known to be slow."""
    found = warmed_up(job_of(repeat(30.0), clock))
    assert len(found.times) == 2
    assert found.slow
    assert "too few to tell whether times had settled" in str(found)
    assert not WarmUp((3.0, 0.5)).slow
