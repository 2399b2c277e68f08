"""A short warmed-up window of steps: timed without the profiler, then recorded with it."""

import gzip
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from rap.profiling.gpu import allocator_of, power_of, watching
from rap.profiling.summary import Allocator, Power, Summary
from rap.profiling.trace import PHASE, STEP, Trace, read_trace

_TIMED_S = 1.0
_SLOW_S, _SLOW_STEPS = 1.0, 2
"""Of steps of seconds, on a CPU, two say what five would."""
_WARM_S = 10.0
"""The longest warm-up after the first step, which may compile for a minute."""
_WINDOW = 3
_SETTLED = 0.05
"""Largest difference between the medians of two windows of step times that have settled."""
_MAX_SNAPSHOT_ENTRIES = 200_000


@dataclass(frozen=True)
class Part:
    """A phase of a step."""

    name: str
    run: Callable[[], object]
    is_input: bool = False
    """It fetches what the step works on."""


@dataclass(frozen=True)
class Job:
    """What is profiled: the parts of one step, in order, and what a step handles."""

    what: str
    device: torch.device
    parts: tuple[Part, ...]
    items: int
    unit: str
    ran: Callable[[], str] = str
    """Asked after the steps: how they ran, and why not as they were asked to."""


@dataclass(frozen=True)
class WarmUp:
    """Steps before the measurement, the first of which may have compiled."""

    times: tuple[float, ...]
    """Seconds of each."""

    @property
    def slow(self) -> bool:
        """Whether steps take seconds."""
        return self.times[-1] > _SLOW_S

    @property
    def settled(self) -> bool:
        """Whether the medians of the last two windows are about the same."""
        recent = self.times[1:]
        if len(recent) < 2 * _WINDOW:
            return False
        before, now = recent[-2 * _WINDOW : -_WINDOW], recent[-_WINDOW:]
        return abs(statistics.median(now) / statistics.median(before) - 1) < _SETTLED

    def __str__(self) -> str:
        """One line for people."""
        first, num = f"the first took {self.times[0]:.3g} s", len(self.times)
        if self.settled:
            return f"warmed up by {num} steps, {first}; their times had settled"
        if num <= 2 * _WINDOW:
            return f"warmed up by {num} steps, {first}; too few to tell whether times had settled"
        return (
            f"warmed up by {num} steps, {first}; NOT settled after {_WARM_S:.0f} s: "
            f"step times still changed by {_SETTLED:.0%} or more"
        )


def record(job: Job, out: Path, steps: int = 5) -> Summary:
    """Profile a job; writes `trace.json.gz`, and with a GPU `memory.pickle`, into the folder."""
    found = timed(job, steps)
    if found.warm_up.slow:
        steps = min(steps, _SLOW_STEPS)
    trace_file = out / "trace.json.gz"
    _profile(job, steps, trace_file)
    if job.device.type == "cuda":
        _snapshot(job, out / "memory.pickle")
    trace = _read(trace_file, job)
    return Summary(
        what=job.what, device=job.device.type, items=job.items, unit=job.unit,
        step_ms=found.step_ms, profiled_ms=trace.step_ms, num_steps=trace.num_steps,
        compute_ms=trace.compute_ms, copy_ms=trace.copy_ms, input_ms=trace.input_ms,
        launches=trace.launches, host_syncs=trace.host_syncs, sync_ms=trace.sync_ms,
        copies=trace.copies, by_device=trace.by_device, by_host=trace.by_host,
        phases=trace.phases, memory=trace.memory, power=found.power,
        allocator=found.allocator, ran=job.ran(), warm_up=str(found.warm_up),
    )  # fmt: skip


@dataclass(frozen=True)
class Timed:
    """Steps without the profiler."""

    warm_up: WarmUp
    step_ms: float
    """Median over rounds of some steps."""
    allocator: Allocator | None
    power: Power | None


def timed(job: Job, steps: int = 5) -> Timed:
    """Warm up, then time rounds of `steps`; what the GPU's driver and the allocator say of it."""
    on_gpu = job.device.type == "cuda"
    if on_gpu:
        # Before the warm-up: what a CUDA graph works in was allocated when it was recorded.
        torch.cuda.reset_peak_memory_stats(job.device)
    warm_up = warmed_up(job)
    with watching(job.device) as samples:
        times = _plain_times(job, min(steps, _SLOW_STEPS) if warm_up.slow else steps)
    allocator = allocator_of(torch.cuda.memory_stats(job.device)) if on_gpu else None
    return Timed(warm_up, statistics.median(times), allocator, power_of(samples))


def allocated_in_a_step(job: Job, folder: Path) -> int:
    """The most that a step takes at once on the host beyond what was there; a trace is left."""
    _profile(job, 1, folder / "trace.json.gz")
    trace = _read(folder / "trace.json.gz", job)
    return max((size for _, size in trace.memory), default=0)


def warmed_up(job: Job) -> WarmUp:
    """Run steps until their times have settled, at least one after the first, for `_WARM_S`."""
    times: list[float] = []
    while True:
        start = time.perf_counter()
        _step(job)
        _wait(job.device)
        times.append(time.perf_counter() - start)
        found = WarmUp(tuple(times))
        if found.settled or (len(times) > 1 and sum(times[1:]) > _WARM_S):
            return found


def _step(job: Job) -> None:
    with record_function(STEP):
        for part in job.parts:
            with record_function(PHASE + part.name):
                part.run()


def _plain_times(job: Job, steps: int) -> list[float]:
    """Milliseconds per step, waiting for the device only after every `steps` of them.

    As in training, the host may run ahead; several rounds give the median something to choose from.
    """
    times: list[float] = []
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < _TIMED_S:
        start = time.perf_counter()
        for _ in range(steps):
            _step(job)
        _wait(job.device)
        times.append(1e3 * (time.perf_counter() - start) / steps)
    return times


def _profile(job: Job, steps: int, trace_file: Path) -> None:
    activities = [ProfilerActivity.CPU]
    if job.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler's advice about its own options
        with profile(activities=activities, profile_memory=True, acc_events=True) as profiler:
            for index in range(steps):
                _step(job)
                if index + 1 == steps:
                    _wait(job.device)
        profiler.export_chrome_trace(str(trace_file))


def _read(trace_file: Path, job: Job) -> Trace:
    with gzip.open(trace_file, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    inputs = [part.name for part in job.parts if part.is_input]
    return read_trace(events, job.device.type == "cuda", inputs)


def _snapshot(job: Job, path: Path) -> None:
    """One step's allocations with their stacks, for https://pytorch.org/memory_viz."""
    torch.cuda.memory._record_memory_history(max_entries=_MAX_SNAPSHOT_ENTRIES)
    _step(job)
    _wait(job.device)
    torch.cuda.memory._dump_snapshot(str(path))
    torch.cuda.memory._record_memory_history(enabled=None)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
