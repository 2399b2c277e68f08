"""What differs between two baselines, in lines that a reviewer reads."""

from collections.abc import Iterator, Mapping

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.record import Record
from benchmarks.harness.report import show
from benchmarks.harness.rules import usable_interval

SHOWN = 0.01
"""Smaller differences are left out, unless everything is asked for."""
HIDDEN = ("iqr_s", "p95_s", "p99_s", "wall_s", "cpu_s", "gpu_s")
"""Beside the gated time these only repeat it."""


def differences(old: Baseline, new: Baseline, everything: bool = False) -> Iterator[str]:
    """Versions, then benchmarks that came or went, then each number that moved."""
    before, after = old.machine.versions, new.machine.versions
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield f"{name} {before.get(name, 'none')} -> {after.get(name, 'none')}"
    yield from _start(old.start, new.start, everything)
    for name in sorted({*old.records, *new.records}):
        if name not in new.records:
            yield f"{name}: gone"
        elif name not in old.records:
            yield f"{name}: new"
        else:
            yield from _numbers(name, old.records[name], new.records[name], everything)


def _start(old: Mapping[str, float], new: Mapping[str, float], everything: bool) -> Iterator[str]:
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        moved = not before or after is None or abs(after / before - 1) > SHOWN
        if everything or moved:
            yield f"{name}: {show(name, before)} -> {show(name, after)}"


def _numbers(name: str, old: Record, new: Record, everything: bool) -> Iterator[str]:
    for metric in sorted({*old.metrics, *new.metrics}):
        before, after = old.metrics.get(metric), new.metrics.get(metric)
        change = after / before - 1 if before and after is not None else None
        moved = before != after if change is None else abs(change) > SHOWN
        if everything or (moved and metric not in HIDDEN):
            share = "" if change is None else f" ({change:+.1%})"
            yield f"{name} {metric}: {show(metric, before)} -> {show(metric, after)}{share}"
    for metric, interval in sorted(new.intervals.items()):
        _, cut = usable_interval(new.metrics.get(metric, 0.0), interval)
        if cut:
            yield f"{name} {metric}: {cut}"
    for counter in sorted({*old.counters, *new.counters}):
        counts = old.counters.get(counter, "none"), new.counters.get(counter, "none")
        if everything or counts[0] != counts[1]:
            yield f"{name} {counter}: {counts[0]} -> {counts[1]}"
    for field in ("clock", "cache"):
        declared = getattr(old, field), getattr(new, field)
        if declared[0] != declared[1]:
            yield f"{name} {field}: {declared[0]} -> {declared[1]}"
