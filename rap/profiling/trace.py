"""A Chrome trace of torch.profiler to numbers per step.

Times in a trace are microseconds. The steps and their phases are the spans that `window.py` marks;
inside them the autograd engine and the optimisers mark theirs.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rap.profiling.summary import Operation, Phase

STEP = "rap step"
PHASE = "rap phase "
BACKWARD = "autograd::engine::evaluate_function"
UPDATE = "Optimizer.step"
TIMELINE_POINTS = 500

_LAUNCH = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cuGraphLaunch")
_SYNC = (
    "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize",
    "cuStreamSynchronize", "cuCtxSynchronize", "cuEventSynchronize",
)  # fmt: skip
_COPY_CALL = ("cudaMemcpy", "cuMemcpy")
_COPY_OPERATION = "aten::copy_"
_SAME_BACKWARD_US = 200.0
_DEVICE = ("kernel", "gpu_memset", "gpu_memcpy")

Event = Mapping[str, Any]
Spans = list[tuple[float, float]]


@dataclass(frozen=True)
class Trace:
    """Per step, in milliseconds; what each means is said in `Summary`."""

    num_steps: int
    step_ms: float
    compute_ms: float
    copy_ms: float
    input_ms: float
    launches: float
    host_syncs: float
    sync_ms: float
    copies: float
    by_device: tuple[Operation, ...]
    by_host: tuple[Operation, ...]
    phases: tuple[Phase, ...]
    memory: tuple[tuple[float, int], ...]


def read_trace(
    events: Iterable[Event], on_gpu: bool, input_phases: Sequence[str], top: int = 12
) -> Trace:
    """Everything between the first step's start and the last one's end.

    Raises ValueError for a trace without steps.
    """
    kinds: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        kinds[event.get("cat", "")].append(event)
    steps = _named(kinds["user_annotation"], STEP)
    if not steps:
        raise ValueError(f"the trace holds no span named {STEP!r}: nothing was profiled")
    start, end, num = steps[0][0], steps[-1][1], len(steps)
    if on_gpu:
        # The device ends after the host, which the profiled window waited for.
        end = max([end, *(_span(event)[1] for kind in _DEVICE for event in kinds[kind])])
    inside = {
        kind: [event for event in found if start <= event["ts"] < end]
        for kind, found in kinds.items()
    }
    calls = inside.get("cuda_runtime", []) + inside.get("cuda_driver", [])
    own = _own_times(inside.get("cpu_op", []))
    annotated = inside.get("user_annotation", [])
    inputs = merged([span for name in input_phases for span in _named(annotated, PHASE + name)])
    compute, copying = _device_spans(inside) if on_gpu else _host_spans(inside, own, inputs)
    syncs = [event for event in calls if event["name"].startswith(_SYNC)]
    copied = [event for event in calls if event["name"].startswith(_COPY_CALL)]
    outer = [event for event, _, depth in own if depth == 0]
    launched = [event for event in calls if event["name"].startswith(_LAUNCH)] if on_gpu else outer
    if not on_gpu:
        copied = [event for event, _, _ in own if event["name"] == _COPY_OPERATION]
    memory = _memory(inside.get("cpu_instant_event", []), on_gpu)
    return Trace(
        num_steps=num,
        step_ms=(end - start) / num / 1e3,
        compute_ms=length(compute) / num / 1e3,
        copy_ms=length(copying) / num / 1e3,
        input_ms=length(inputs) / num / 1e3,
        launches=len(launched) / num,
        host_syncs=len(syncs) / num,
        sync_ms=sum((float(event["dur"]) for event in syncs), 0.0) / num / 1e3,
        copies=len(copied) / num,
        by_device=_top([(e["name"], float(e["dur"])) for e in inside.get("kernel", [])], num, top),
        by_host=_top([(event["name"], taken) for event, taken, _ in own], num, top),
        phases=_phases(annotated, inside.get("cpu_op", []), memory, num),
        memory=_timeline(memory, start, end),
    )


def merged(spans: Iterable[tuple[float, float]], gap: float = 0.0) -> Spans:
    """Spans in order, overlapping ones (and those at most `gap` apart) joined."""
    joined: Spans = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1] + gap:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined


def without(spans: Spans, holes: Spans) -> Spans:
    """The parts of merged spans that lie in none of the merged holes."""
    left: Spans = []
    for start, end in spans:
        for low, high in holes:
            if high <= start or low >= end:
                continue
            if low > start:
                left.append((start, low))
            start = max(start, high)
        if start < end:
            left.append((start, end))
    return left


def length(spans: Spans) -> float:
    """Sum of the lengths of merged spans."""
    return sum((end - start for start, end in spans), 0.0)


def _span(event: Event) -> tuple[float, float]:
    return float(event["ts"]), float(event["ts"] + event["dur"])


def _named(events: Iterable[Event], name: str) -> Spans:
    return sorted(_span(event) for event in events if event["name"] == name)


def _device_spans(inside: Mapping[str, list[Event]]) -> tuple[Spans, Spans]:
    """When kernels ran, and when there were only copies."""
    compute = merged(_span(e) for k in ("kernel", "gpu_memset") for e in inside.get(k, []))
    copying = merged(_span(event) for event in inside.get("gpu_memcpy", []))
    return compute, without(copying, compute)


def _host_spans(
    inside: Mapping[str, list[Event]], own: list[tuple[Event, float, int]], inputs: Spans
) -> tuple[Spans, Spans]:
    """When operations ran that are neither copies nor part of the input, and when copies did."""
    operations = merged(_span(event) for event in inside.get("cpu_op", []))
    copying = merged(_span(event) for event, _, _ in own if event["name"] == _COPY_OPERATION)
    copying = without(copying, inputs)
    return without(without(operations, inputs), copying), copying


def _own_times(operations: Sequence[Event]) -> list[tuple[Event, float, int]]:
    """Each operation, its time without those that it calls, and how deep it is nested."""
    times: list[tuple[Event, float, int]] = []
    threads: dict[object, list[Event]] = defaultdict(list)
    for event in operations:
        threads[event.get("tid")].append(event)
    for found in threads.values():
        found.sort(key=lambda event: (event["ts"], -event["dur"]))
        open_: list[tuple[Event, list[float]]] = []
        for event in found:
            while open_ and _span(open_[-1][0])[1] <= event["ts"]:
                done, left = open_.pop()
                times.append((done, left[0], len(open_)))
            if open_:
                open_[-1][1][0] -= event["dur"]
            open_.append((event, [float(event["dur"])]))
        while open_:
            done, left = open_.pop()
            times.append((done, left[0], len(open_)))
    return times


def _top(taken: Iterable[tuple[str, float]], num_steps: int, top: int) -> tuple[Operation, ...]:
    total: dict[str, list[float]] = defaultdict(list)
    for name, duration in taken:
        total[name].append(duration)
    ranked = sorted(total.items(), key=lambda item: -sum(item[1]))[:top]
    return tuple(
        Operation(name, len(times) / num_steps, sum(times) / num_steps / 1e3)
        for name, times in ranked
    )


def _memory(instants: Iterable[Event], on_gpu: bool) -> list[tuple[float, int]]:
    """Allocated bytes over time; on the CPU counted from the profiler's start."""
    kind = 1 if on_gpu else 0
    return sorted(
        (float(event["ts"]), int(event["args"]["Total Allocated"]))
        for event in instants
        if event["name"] == "[memory]" and event["args"].get("Device Type") == kind
    )


def _timeline(
    memory: Sequence[tuple[float, int]], start: float, end: float
) -> tuple[tuple[float, int], ...]:
    """The highest point of each of TIMELINE_POINTS parts of the window, where there is one."""
    highest: dict[int, tuple[float, int]] = {}
    for ts, size in memory:
        part = int(TIMELINE_POINTS * (ts - start) / (end - start))
        if part not in highest or size > highest[part][1]:
            highest[part] = (ts - start) / 1e3, size
    return tuple(highest.values())


def _phases(
    annotated: Sequence[Event],
    operations: Sequence[Event],
    memory: Sequence[tuple[float, int]],
    num_steps: int,
) -> tuple[Phase, ...]:
    """Marked phases in their order, then what autograd and the optimisers mark inside of them."""
    first = sorted((e for e in annotated if e["name"].startswith(PHASE)), key=lambda e: e["ts"])
    spans = {
        name.removeprefix(PHASE): _named(annotated, name)
        for name in dict.fromkeys(event["name"] for event in first)
    }
    backward = (_span(event) for event in operations if event["name"].startswith(BACKWARD))
    updates = (_span(event) for event in annotated if event["name"].startswith(UPDATE))
    inner = {
        "of which backward": merged(backward, _SAME_BACKWARD_US),
        "of which update": merged(updates),
    }
    spans |= {name: found for name, found in inner.items() if found}
    return tuple(
        Phase(name, length(merged(found)) / num_steps / 1e3, _peak(memory, found))
        for name, found in spans.items()
    )


def _peak(memory: Sequence[tuple[float, int]], spans: Spans) -> int:
    """The most that was allocated during the spans, counting what was there as they began."""
    peak, index, current = 0, 0, 0
    for start, end in sorted(spans):
        while index < len(memory) and memory[index][0] < start:
            current = memory[index][1]
            index += 1
        peak = max(peak, current)
        while index < len(memory) and memory[index][0] <= end:
            current = memory[index][1]
            peak = max(peak, current)
            index += 1
    return peak
