"""A summary for people: tables on the terminal, the same as text, and all numbers as JSON."""

import dataclasses
import json
from pathlib import Path

from rap import log
from rap.profiling.summary import Operation, Summary, shares, verdict

_MIB = 2**20
_BARS = " .:-=+*#%@"
_COLUMNS = 60


def text_of(summary: Summary) -> str:
    """Verdict, numbers, operations and phases as plain text."""
    found = verdict(summary)
    lines = [
        f"{summary.what}: {found.kind} ({found.share:.0%} of a step)",
        *(f"  {fact}" for fact in (*found.evidence, summary.ran, summary.warm_up) if fact),
        "",
        *_aligned(_facts(summary)),
        "",
        "phases",
        *_aligned(_phases(summary)),
        *_timeline(summary.memory),
    ]
    if summary.by_device:
        lines += ["", "kernels on the device", *_aligned(_operations(summary.by_device))]
    lines += ["", "operations on the host, their own time", *_aligned(_operations(summary.by_host))]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def write(summary: Summary, folder: Path) -> None:
    """`summary.txt` and `summary.json`."""
    content = dataclasses.asdict(summary)
    found = verdict(summary)
    content["verdict"] = dataclasses.asdict(found) | {"shares": shares(summary)}
    write_text(folder / "summary.json", json.dumps(content, indent=1) + "\n")
    write_text(folder / "summary.txt", text_of(summary))


def _facts(summary: Summary) -> list[tuple[str, ...]]:
    rate = 1e3 * summary.items / summary.step_ms
    on_gpu = summary.device == "cuda"
    rows: list[tuple[str, ...]] = [
        ("step", f"{summary.step_ms:.3f} ms", f"{rate:,.1f} {summary.unit}/s"),
        ("step under the profiler", f"{summary.profiled_ms:.3f} ms", f"{summary.num_steps} steps"),
        ("device idle", f"{summary.idle:.1%}", ""),
        ("computing", f"{summary.compute_ms:.3f} ms", ""),
        ("copying", f"{summary.copy_ms:.3f} ms", f"{summary.copies:.1f} copies"),
        ("fetching input (host)", f"{summary.input_ms:.3f} ms", ""),
        ("launches" if on_gpu else "operations called", f"{summary.launches:.1f}", ""),
        ("synchronisations", f"{summary.host_syncs:.1f}", f"{summary.sync_ms:.3f} ms"),
    ]
    if summary.allocator is not None:
        found = summary.allocator
        rows.append(
            ("allocator, peaks", f"{found.allocated_bytes / _MIB:,.1f} MiB",
             f"of {found.reserved_bytes / _MIB:,.1f} MiB taken ({found.unused:.0%} without a "
             f"tensor), {found.split_bytes / _MIB:,.1f} MiB in split blocks")
        )  # fmt: skip
    if summary.power is not None:
        power = summary.power
        rows.append(
            ("GPU by NVML", f"{power.utilisation:.0%} utilised",
             f"{power.power_w:.0f} W (at most {power.max_power_w:.0f}), "
             f"{power.sm_clock_mhz:.0f} MHz, {power.num_samples} samples")
        )  # fmt: skip
    return rows


def _phases(summary: Summary) -> list[tuple[str, ...]]:
    return [
        (phase.name, f"{phase.host_ms:.3f} ms", f"peak {phase.peak_bytes / _MIB:,.1f} MiB")
        for phase in summary.phases
    ]


def _timeline(memory: tuple[tuple[float, int], ...]) -> list[str]:
    """Allocated memory over the profiled steps, drawn in one line: the most in each column."""
    if not memory:
        return []
    end, top = memory[-1][0], max(size for _, size in memory)
    columns = [0] * _COLUMNS
    for at_ms, size in memory:
        column = min(_COLUMNS - 1, int(_COLUMNS * at_ms / max(end, 1e-9)))
        columns[column] = max(columns[column], size)
    bars = [_BARS[size * (len(_BARS) - 1) // max(top, 1)] for size in columns]
    return [f"  memory over {end:.3g} ms, at most {top / _MIB:,.1f} MiB: {''.join(bars)}"]


def _operations(operations: tuple[Operation, ...]) -> list[tuple[str, ...]]:
    return [(f"{o.name[:80]}", f"{o.ms:.3f} ms", f"{o.calls:.1f} calls") for o in operations]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    return [f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]}" for row in rows]


def write_text(path: Path, text: str) -> None:
    """A file that appears whole or not at all."""
    with log.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
