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

from rap.profiling.gpu import power_of, watching
from rap.profiling.summary import Summary
from rap.profiling.trace import PHASE, STEP, read_trace

_TIMED_S = 1.0
_SLOW_S = 3.0
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


def record(job: Job, out: Path, warm_up: int = 3, steps: int = 5) -> Summary:
    """Profile a job; writes `trace.json.gz`, and with a GPU `memory.pickle`, into the folder."""
    start = time.perf_counter()
    for _ in range(warm_up):
        _step(job)
        _wait(job.device)
        if time.perf_counter() - start > _SLOW_S:
            # Steps of seconds, on a CPU: two of them say what five would.
            steps = min(steps, 2)
            break
    with watching(job.device) as samples:
        times = _plain_times(job, steps)
    trace_file = out / "trace.json.gz"
    _profile(job, steps, trace_file)
    if job.device.type == "cuda":
        _snapshot(job, out / "memory.pickle")
    with gzip.open(trace_file, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    on_gpu = job.device.type == "cuda"
    trace = read_trace(events, on_gpu, [part.name for part in job.parts if part.is_input])
    return Summary(
        what=job.what, device=job.device.type, items=job.items, unit=job.unit,
        step_ms=statistics.median(times), profiled_ms=trace.step_ms, num_steps=trace.num_steps,
        compute_ms=trace.compute_ms, copy_ms=trace.copy_ms, input_ms=trace.input_ms,
        launches=trace.launches, host_syncs=trace.host_syncs, sync_ms=trace.sync_ms,
        copies=trace.copies, by_device=trace.by_device, by_host=trace.by_host,
        phases=trace.phases, memory=trace.memory, power=power_of(samples),
    )  # fmt: skip


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
