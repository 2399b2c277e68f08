"""What NVML is asked under load: with work queued between rounds, or beside work that runs once."""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from benchmarks.harness import fitness, measure, watch
from benchmarks.harness.canary import Canaries
from benchmarks.harness.clock import Budget, Loop, Round, host_clock, take
from benchmarks.harness.faults import Faults
from benchmarks.harness.gpu import HARDWARE_THROTTLE, Gpu, Sample
from benchmarks.harness.measure import Measure, Stage
from benchmarks.harness.memory import MemoryWatch
from benchmarks.harness.record import Record
from benchmarks.harness.watch import Watch
from tests.processes import PATIENCE_S

T = TypeVar("T")
Spend = Callable[[float], None]
BUDGET = Budget(3, warm_s=0.1, warm_cap_s=2.0, rounds=5, max_rounds=50, time_s=2.0, cap_s=9.0)
HOT = 0x40
"""The bit of `hw_thermal`."""
NO_METER: Iterator[tuple[float, float]] = iter(())


class PlayedGpu(Gpu):
    """A GPU that clocks down as soon as it is idle, and throttles only at work."""

    def __init__(self, meter: Iterator[tuple[float, float]] = NO_METER) -> None:
        self.meter = meter
        """Joules and when they were read."""
        self.busy = False
        self.asked: list[bool] = []
        """Whether processes were asked for, look by look."""

    def sample(self, *, with_processes: bool = True) -> Sample:
        """What NVML would say now."""
        self.asked.append(with_processes)
        clock, bits = (1980.0, HOT) if self.busy else (345.0, 0x01)
        power = 600.0 if self.busy else 70.0
        joules, taken_s = next(self.meter, (None, 0.0))
        return Sample(
            clock, 2619.0, power, 50.0, bits, frozenset(), energy_j=joules, taken_s=taken_s
        )  # fmt: skip

    def foreign(self, sample: Sample) -> frozenset[int]:
        """Nobody."""
        return frozenset()

    def clock(self, step: Callable[[], T], calls: int) -> tuple[T, Round]:
        """A clock that synchronises at the end of a round."""
        value, taken = host_clock(step, calls)
        self.busy = False
        return value, taken


def work(gpu: PlayedGpu, spend: Spend, seconds: float) -> Callable[[], None]:
    """A step that leaves its work queued."""

    def step() -> None:
        spend(seconds)
        gpu.busy = True

    return step


def measured(gpu: PlayedGpu, step: Callable[[], object], rounds: int | None = None) -> Record:
    """The record of a step beside this GPU."""
    stage = Stage(Canaries("cpu"), gpu, MemoryWatch("cpu"), lambda times: None)
    taking = Measure(Record("step", "node"), "cpu", Faults(), stage)
    taking(step, rounds=rounds)
    return taking.record


@pytest.mark.parametrize("rounds", [None, 4])
def test_facts_are_those_of_a_gpu_at_work(
    spend: Spend, monkeypatch: pytest.MonkeyPatch, rounds: int | None
) -> None:
    """After a synchronisation the clock falls at once, and every throttle reason is gone."""
    gpu = PlayedGpu()
    monkeypatch.setattr(measure, "host_clock", gpu.clock)
    record = measured(gpu, work(gpu, spend, 0.05), rounds)
    assert record.facts["sm_clock_mhz"] == 1980
    assert record.facts["power_w"] == 600
    assert record.invalid == (f"hardware throttle: {HARDWARE_THROTTLE[HOT]}",)


def test_doctor_looks_at_a_gpu_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle, no board is throttled."""
    gpu = PlayedGpu()
    looks: list[Sample] = []
    plain = Canaries.work

    def work(choir: Canaries) -> None:
        plain(choir)
        gpu.busy = True

    monkeypatch.setattr(Canaries, "work", work)
    monkeypatch.setattr(fitness, "SONGS", 2)
    fitness.canaries("cpu", lambda: looks.append(gpu.sample()))
    assert [look.sm_clock_mhz for look in looks] == [1980, 1980]


def test_no_timed_round_pays_for_a_look(spend: Spend) -> None:
    """Looks of 7 ms between rounds of 50 ms, and extra calls for them."""
    looks: list[int] = []
    calls: list[int] = []

    def look() -> None:
        spend(0.007)
        looks.append(len(calls))

    def step() -> None:
        spend(0.05)
        calls.append(1)

    timing = take(Loop(step, host_clock, look=look), BUDGET, None, lambda: None)
    assert max(taken.wall_s for taken in timing.rounds) == pytest.approx(0.05, abs=1e-4)
    assert looks[-1] == len(calls), "one after the last round"
    assert 3 <= len(looks) <= 6, "and one each half second"


def test_slow_work_is_looked_at_twice(spend: Spend) -> None:
    """A look needs a call of its own: beside rounds of a second it would double their time."""
    looks: list[None] = []
    loop = Loop(lambda: spend(1.0), host_clock, look=lambda: looks.append(None))
    take(loop, BUDGET, None, lambda: None)
    assert len(looks) == 2


def test_preparation_of_a_round_precedes_a_look_s_calls(spend: Spend) -> None:
    """A step may need what is prepared for it."""
    seen: list[str] = []
    loop = Loop(
        lambda: (spend(0.1), seen.append("step")), host_clock, lambda: seen.append("prepare"),
        lambda: seen.append("look"),
    )  # fmt: skip
    take(loop, BUDGET, 2, lambda: None)
    assert seen[4:7] == ["prepare", "step", "look"] == seen[-3:]
    assert seen.count("step") == 6


def test_work_that_runs_once_is_watched_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a thread, without asking for processes: such work may start its own."""
    monkeypatch.setattr(watch, "PERIOD_S", 0.001)
    gpu = PlayedGpu()
    begun, looked = threading.Event(), threading.Event()

    def step() -> None:
        gpu.busy = True
        begun.set()
        assert looked.wait(PATIENCE_S)

    plain = gpu.sample

    def sample(*, with_processes: bool = True) -> Sample:
        # idle before and after; how many looks a thread takes outside of the step is chance
        gpu.busy = not with_processes and begun.wait(PATIENCE_S)
        found = plain(with_processes=with_processes)
        if len(gpu.asked) > 20:
            looked.set()
        return found

    monkeypatch.setattr(gpu, "sample", sample)
    record = measured(gpu, step, rounds=1)
    assert record.facts["sm_clock_mhz"] == 1980
    assert record.invalid
    assert (gpu.asked[0], gpu.asked[-1]) == (True, True)
    assert not any(gpu.asked[1:-1])
    assert not [thread for thread in threading.enumerate() if thread.name == "nvml"]


def test_thread_ends_with_work_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes on looking at a GPU on which nothing runs."""
    monkeypatch.setattr(watch, "PERIOD_S", 0.001)
    watched = Watch(PlayedGpu())
    with pytest.raises(ValueError, match="broken"), watched.through():
        raise ValueError("broken")
    assert not [thread for thread in threading.enumerate() if thread.name == "nvml"]


@pytest.mark.parametrize(("seconds", "given"), [(0.005, False), (2.0, True)])
def test_energy_needs_many_ticks_of_the_meter(spend: Spend, seconds: float, given: bool) -> None:
    """Its counter stands still for up to 100 ms: 5 ms would have all of a tick, or nothing."""
    gpu = PlayedGpu(iter([(100.0, 7.0), (400.0, 7.0 + seconds)]))
    record = measured(gpu, work(gpu, spend, seconds), rounds=1)
    assert ("mean_power_w" in record.facts) is given
    assert record.metrics.get("energy_j") == (pytest.approx(300, rel=1e-3) if given else None)
