"""`measure`: what a benchmark calls. Untimed it runs the step once, timed it takes the numbers.

@pytest.mark.parametrize("batch_size", axis([8, 64], full=[1, 8, 16, 32, 64]))
def bench_train_step(measure: Measure, batch_size: int) -> None:
    learner = make(batch_size, measure.device)
    result = measure(learner.step, items=batch_size, unit="samples")
    result.check(math.isfinite(result.value), "the loss is finite")
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import pytest

from benchmarks.harness import faults
from benchmarks.harness.cache import Flush
from benchmarks.harness.canary import Canaries, average
from benchmarks.harness.clock import BUDGETS, Loop, Round, Timing, cuda_clock, host_clock, take
from benchmarks.harness.counting import CallCounter, compiled_graphs, graphs_since
from benchmarks.harness.gpu import Gpu
from benchmarks.harness.memory import MemoryWatch
from benchmarks.harness.record import CacheState, ClockName, Record
from benchmarks.harness.replaying import launched_s, recorded
from benchmarks.harness.statistics import log_median, median, median_half_width, quantile
from benchmarks.harness.watch import Watch

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """What the session lends to a timed benchmark."""

    canaries: Canaries
    gpu: Gpu | None
    memory: MemoryWatch
    replay: Callable[[Sequence[float]], None]
    """Hands the gated times to pytest-benchmark."""
    counter: CallCounter | None = None
    """Given: the process counts CUDA calls and takes no times."""


@dataclass(frozen=True)
class Result(Generic[T]):
    """What the step returned, and where metrics about it go."""

    value: T
    """From the last call: of what was timed."""
    first: T
    """From the first call: what a step that changes its own state can be checked by."""
    measure: "Measure"

    def check(self, ok: object, message: str) -> None:
        """The answer must be right, or the benchmark is red instead of fast."""
        if not ok:
            raise AssertionError(message)

    def metric(self, name: str, value: float) -> None:
        """Record a number; the name ends in its unit. Gated if the policy lists it."""
        self.measure.metric(name, value)

    def counter(self, name: str, count: int) -> None:
        """Record an exact count (launches, synchronisations); any change of it is red."""
        self.measure.counter(name, count)

    def accuracy(self, name: str, values: Sequence[float]) -> None:
        """Record an accuracy over seeds: the median, and the interval its repetition falls into."""
        self.measure.accuracy(name, values)


class Measure:
    """The fixture `measure`: call it once, with what is to be measured."""

    def __init__(
        self, record: Record, device: str, injected: faults.Faults, stage: Stage | None
    ) -> None:
        self.record = record
        self.device = device
        """`cpu` or `cuda`: where the benchmark has to run."""
        self.called = False
        self._faults = injected
        self._stage = stage

    @property
    def timed(self) -> bool:
        """Whether numbers are taken; without it the step runs once and the answer is checked."""
        return self._stage is not None

    def __call__(
        self,
        step: Callable[[], T],
        *,
        items: int | None = None,
        unit: str = "items",
        clock: ClockName = "wall",
        cache: CacheState = "warm",
        rounds: int | None = None,
        before_round: Callable[[], object] | None = None,
        counters: Mapping[str, int] | None = None,
        moves_bytes: float | None = None,
        flop: float | None = None,
        replay: bool = False,
    ) -> Result[T]:
        """Measure `step`.

        `items` handled per call give `{unit}_per_s`. `clock` is what is gated: `gpu` (CUDA events,
        for kernels) or `wall` (end to end); on a CPU both are wall time. `rounds` fixes their
        number: two calls are then the only warm-up, and with 1 the first is the measurement.
        `before_round` runs outside the span; it and a cold cache rule out batching of short work.
        `moves_bytes` and `flop` are the least that a call must move and compute: the report shows
        their rates as shares of what this machine reaches. `replay`: on a GPU a CUDA graph of the
        step is timed, so that its kernels count and not their launches, which `launched_s` keeps;
        CUDA calls are counted of the step itself.
        """
        if self.called:
            raise RuntimeError(f"{self.record.id}: measure() was called twice; make two benchmarks")
        self.called = True
        declared = {"bytes": moves_bytes, "flop": flop}
        work = {name: float(amount) for name, amount in declared.items() if amount is not None}
        self.record = replace(self.record, counters=dict(counters or {}), work=work)
        compiled = compiled_graphs()
        if self._stage is None:
            if before_round is not None:
                before_round()
            first = last = step()
        elif self._stage.counter is not None:
            first, last = self._count(step, rounds, before_round, self._stage.counter)
        else:
            on_gpu = clock == "gpu" and self.device == "cuda"
            self.record = replace(self.record, clock="gpu" if on_gpu else "wall", cache=cache)
            if replay and self.device == "cuda":
                self.metric("launched_s", launched_s(step))
                step = recorded(step)
            first, last = self._time(step, rounds, before_round, self._stage)
            if items is not None:
                self.metric(f"{unit}_per_s", items / self.record.metrics["time_s"])
        for name, count in graphs_since(compiled).items():
            self.counter(name, count)
        if self._faults.active("answer", self.record.id):
            first, last = faults.corrupted(first), faults.corrupted(last)
        return Result(last, first, self)

    def _count(
        self,
        step: Callable[[], T],
        rounds: int | None,
        before_round: Callable[[], object] | None,
        counter: CallCounter,
    ) -> tuple[T, T]:
        """Two calls as in a timed run, then two that are counted; the faults are not counted."""
        if rounds == 1:
            pytest.skip("one call of many seconds: not counted")
        prepare = before_round or (lambda: None)
        values: list[T] = []

        def prepared() -> None:
            prepare()
            values.append(step())

        prepared()
        prepared()
        counts, notes = counter.count(prepared)
        self.record = replace(self.record, notes=tuple(notes))
        for name, count in counts.items():
            self.counter(name, count)
        return values[0], values[-1]

    def metric(self, name: str, value: float) -> None:
        """Record a number; the name ends in its unit. Gated if the policy lists it."""
        self.record = replace(self.record, metrics={**self.record.metrics, name: float(value)})

    def accuracy(self, name: str, values: Sequence[float]) -> None:
        """Record an accuracy over seeds: the median, and the interval its repetition falls into."""
        self.metric(name, median(values))
        intervals = {**self.record.intervals, name: median_half_width(values)}
        samples = {**self.record.samples, name: tuple(map(float, values))}
        self.record = replace(self.record, intervals=intervals, samples=samples)

    def counter(self, name: str, count: int) -> None:
        """Record an exact count; any change of it is red."""
        self.record = replace(self.record, counters={**self.record.counters, name: count})

    def _time(
        self,
        step: Callable[[], T],
        rounds: int | None,
        before_round: Callable[[], object] | None,
        stage: Stage,
    ) -> tuple[T, T]:
        """What the first and the last call returned; the record has everything else."""
        watch = None if stage.gpu is None else Watch(stage.gpu)
        canary = stage.canaries.before()
        if self.record.cache == "cold":
            flush = Flush(self.device, before_round)
            stage.memory.exclude(flush.num_bytes)
            before_round = flush

        def rehearsed() -> None:
            share = self._faults.percent("memory", self.record.id) / 100
            if share > 0:
                # freed at once: the peak keeps it, and the rounds do not come on top of it
                faults.ballast(stage.memory.bytes_above_peak(share), self.device)
            stage.memory.settle()

        clock = cuda_clock if self.device == "cuda" else host_clock
        slow = faults.slowed(step, self._faults, self.record.id, self.device)
        loop = Loop(slow, clock, before_round, None if watch is None else watch.look)
        once = watch if rounds == 1 else None
        with nullcontext() if once is None else once.through():
            timing = take(loop, BUDGETS[self.device], rounds, rehearsed)
        notes = [*self.record.notes, *stage.memory.notes]
        if watch is not None:
            self.record = replace(self.record, facts=watch.facts(), invalid=watch.why_invalid())
            notes += filter(None, [watch.held_back()])
        metrics = {**self.record.metrics, **stage.memory.read()}
        canary = average(canary, stage.canaries.sing())
        self.record = replace(self.record, metrics=metrics, canary=canary, notes=tuple(notes))
        self._note_times(timing, stage)
        return timing.first, timing.last

    def _note_times(self, timing: Timing[T], stage: Stage) -> None:
        times = round_times(timing.rounds, on_gpu=self.record.clock == "gpu")
        metrics = {
            "time_s": log_median(times),
            "iqr_s": quantile(times, 0.75) - quantile(times, 0.25),
            "p95_s": quantile(times, 0.95),
            "p99_s": quantile(times, 0.99),
            "wall_s": log_median(round_times(timing.rounds, on_gpu=False)),
            "cpu_s": median([taken.cpu_s for taken in timing.rounds]),
            "first_call_s": timing.first_call_s,
        }
        if self.device == "cuda":
            metrics["gpu_s"] = log_median(round_times(timing.rounds, on_gpu=True))
        if "mean_power_w" in self.record.facts:
            metrics["energy_j"] = self.record.facts["mean_power_w"] * metrics["wall_s"]
        metrics = {**self.record.metrics, **metrics}
        self.record = replace(
            self.record, metrics=metrics, warm_up=timing.warm_up, rounds=len(times)
        )
        stage.replay(times)


def round_times(rounds: Sequence[Round], on_gpu: bool) -> list[float]:
    """The round times of one clock, all of them above the clocks' resolution."""
    if on_gpu:
        return [max(span, 1e-9) for taken in rounds for span in taken.gpu_s]
    return [max(taken.wall_s, 1e-9) for taken in rounds]
