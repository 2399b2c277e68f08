"""Exact counts of what one call asks of the GPU and the compiler: any change of them is red.

CUDA calls are counted by the profiler, which sees every library's. It slows what comes after it, so
counting has a process of its own (`--benchmark-count`). Two calls must agree: a count that depends
on the data is no exact one and is left out, with a note.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from benchmarks.harness.record import Record

KINDS = {
    "launches": ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cuGraphLaunch"),
    "host_syncs": (
        "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize",
        "cuStreamSynchronize", "cuCtxSynchronize", "cuEventSynchronize",
    ),
    "copies": ("cudaMemcpy", "cuMemcpy"),
}  # fmt: skip
"""Starts of the names of CUDA's calls. A replayed graph is one launch, as for the host."""
Calls = Mapping[str, int]
NOT_COUNTED = "CUDA calls were not counted"
CUDA_CALLS = "cuda_calls"
"""Stands for all of them in a finding."""


class CountingError(ValueError):
    """Counts were asked for where nothing can count."""


class CallCounter:
    """Counts a step's CUDA calls, without those that the profiler itself makes.

    `profiled` runs a step and returns how often each CUDA call was made; a test hands in its own.
    """

    def __init__(self, profiled: Callable[[Callable[[], object]], Calls] | None = None) -> None:
        self._profiled = profiled or profile_cuda
        self._profiled(lambda: None)  # the first one starts the profiler up
        self._own = by_kind(self._profiled(lambda: None))

    def count(self, step: Callable[[], object]) -> tuple[dict[str, int], list[str]]:
        """The counts on which two calls agree, and a note for each on which they don't."""
        one, other = (self._once(step) for _ in range(2))
        agreed = {kind: one[kind] for kind in one if one[kind] == other[kind]}
        notes = [
            f"{kind}: {one[kind]} in one call and {other[kind]} in the next: no exact counter"
            for kind in one
            if kind not in agreed
        ]
        return agreed, notes

    def _once(self, step: Callable[[], object]) -> dict[str, int]:
        found = by_kind(self._profiled(step))
        return {kind: found[kind] - self._own[kind] for kind in found}


def by_kind(calls: Calls) -> dict[str, int]:
    """CUDA calls summed up to what they mean."""
    return {
        kind: sum(num for name, num in calls.items() if name.startswith(names))
        for kind, names in KINDS.items()
    }


def cuda_counter() -> CallCounter:
    """A counter that was seen to count one known kernel; CountingError where it does not."""
    import torch

    counter = CallCounter()
    value = torch.zeros(1, device="cuda")
    found, _ = counter.count(lambda: value.add_(1))
    if found.get("launches") != 1:
        raise CountingError(
            f"--benchmark-count: the profiler saw {found.get('launches')} launches of one kernel: "
            "CUPTI is not available here (in a container it may need CAP_SYS_ADMIN)"
        )
    return counter


def profile_cuda(step: Callable[[], object]) -> Calls:
    """How often each CUDA call was made while a step ran and the GPU finished it."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler's advice about its own options
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            step()
            torch.cuda.synchronize()
        return calls_in(profiler)


def calls_in(profiler: Any) -> Calls:  # noqa: ANN401 (torch is imported only where it counts)
    """How often each name is in a finished profile.

    `key_averages` says the same of CUDA's calls, but builds a tree of all events, 50 µs each.
    """
    return Counter(event.name() for event in profiler.profiler.kineto_results.events())


def compiled_graphs() -> dict[str, int]:
    """Graphs and graph breaks that torch.compile has made in this process; empty without it."""
    if "torch._dynamo" not in sys.modules:
        return {}
    import torch

    counters = torch._dynamo.utils.counters
    breaks = sum(counters["graph_break"].values())
    return {"graphs": counters["stats"]["unique_graphs"], "graph_breaks": breaks}


def graphs_since(before: Mapping[str, int]) -> dict[str, int]:
    """What was compiled meanwhile (a recompilation is one graph more); empty for eager code."""
    found = {name: num - before.get(name, 0) for name, num in compiled_graphs().items()}
    return found if any(found.values()) else {}


def joined(record: Record, counted: Record | None, problem: str) -> Record:
    """A timed record with the counts that another process took, or with the reason for none.

    `counted` is that process's record; without one, the last line of `problem` says why.
    """
    if record.outcome != "passed" or (counted is not None and counted.outcome == "skipped"):
        return record
    if counted is None or counted.outcome != "passed":
        last = (problem.splitlines() or ["its process gave no record of it"])[-1]
        reason = last if counted is None else f"{record.id}: {counted.reason}"
        return replace(record, notes=(*record.notes, f"{NOT_COUNTED}: {reason}"))
    counters = {**record.counters, **counted.counters}
    return replace(record, counters=counters, notes=(*record.notes, *counted.notes))


def why_not_counted(name: str, records: Iterable[Record]) -> str:
    """The first note that says why a counter is missing; empty where none does."""
    notes = (note for record in records for note in record.notes)
    return next((note for note in notes if note.startswith((f"{name}: ", NOT_COUNTED))), "")


def only_now_counted(base: Iterable[Record], now: Iterable[Record]) -> str:
    """Which CUDA calls are compared with nothing, as only the newer records have a count, and why.

    Empty where there are none.
    """
    before, after = list(base), list(now)
    had, has = ({name for r in records for name in r.counters} for records in (before, after))
    names = [name for name in KINDS if name in has - had]
    if not names:
        return ""
    why = why_not_counted(names[0], before) or "there is no count of them"
    return f"{why}: nothing to compare {', '.join(names)} with"
