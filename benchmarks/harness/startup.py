"""What a process is before its first benchmark: how long it took to get there, what it holds.

Everything at import is in it. No benchmark's time or peak knows of it: both begin later.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.blocks import SIDES, Block, Side
from benchmarks.harness.memory import give_back, read_status
from benchmarks.harness.policy import MetricRule, Policy
from benchmarks.harness.record import Session
from benchmarks.harness.rules import Finding, Status
from benchmarks.harness.statistics import median

START, HELD, PEAK = "start_s", "start_rss_bytes", "process_peak_rss_bytes"
RULE = MetricRule("memory", "lower", relative=0.1, absolute=32 << 20)
"""For what is held: it repeats to a MiB, so that a tenth is no noise."""
SLOW = 0.25
"""A start slower by more than this share, and by half a second, is named."""
SLOW_S = 0.5
STAT = Path("/proc/self/stat")
STARTED = 19
"""The place of the start time, in ticks since boot, behind the process's name."""


class Startup:
    """Watches a process from outside its benchmarks."""

    def __init__(self) -> None:
        self._facts: dict[str, float] = {}
        self._peak = 0

    def before(self) -> None:
        """Before each benchmark, and before its peak is reset; the first look tells the start."""
        if not self._facts:
            taken = seconds_since_start()
            give_back()
            told = {START: taken, HELD: _status("RssAnon")}
            self._facts = {name: float(value) for name, value in told.items() if value is not None}
        self._peak = max(self._peak, _status("VmHWM") or 0)

    def facts(self) -> dict[str, float]:
        """What is known; empty where no benchmark was begun, or the system does not tell."""
        peak = max(self._peak, _status("VmHWM") or 0)
        return {**self._facts, PEAK: float(peak)} if self._facts and peak else dict(self._facts)


def seconds_since_start() -> float | None:
    """How long this process has existed; None where the system does not tell."""
    try:
        ticks = STAT.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        started = int(ticks[STARTED]) / os.sysconf("SC_CLK_TCK")
        taken = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return taken if taken >= 0 else None


def _status(field: str) -> int | None:
    try:
        return read_status(field)
    except OSError:
        return None


def describe_start(facts: Mapping[str, float]) -> str:
    """One line for people; empty where nothing is known."""
    told = [f"{facts[START]:.1f} s to the first benchmark"] if START in facts else []
    if HELD in facts:
        told.append(f"{facts[HELD] / 2**20:.0f} MiB held there")
    if PEAK in facts:
        told.append(f"{facts[PEAK] / 2**20:.0f} MiB at most (RSS)")
    return ", ".join(told)


def start_findings(blocks: Sequence[Block], policy: Policy) -> Iterator[Finding]:
    """What both arms held and took before their first benchmark.

    What is held is gated where memory is: every process of the head must hold more than every one
    of the base, beyond the margin. The seconds and the peak of the whole process are shown.
    """
    base, head = _values(blocks, "base", HELD), _values(blocks, "head", HELD)
    if base and head:
        status = Status.OK
        if not RULE.loss(max(base), min(head)) <= RULE.allowed(max(base)):
            status = Status.WORSE if _gates_memory(policy) else Status.NOT_PROVEN
        yield _held(status, median(base), median(head))
    for name in (START, PEAK):
        base, head = _values(blocks, "base", name), _values(blocks, "head", name)
        if base and head:
            worse = name == START and _is_slow(median(base), median(head))
            status = Status.NOT_PROVEN if worse else Status.OK
            yield Finding("", name, status, median(base), median(head), "shown, not gated")


def screen_start(run: Session, baseline: Baseline | None, policy: Policy) -> Finding:
    """What one process holds before its first benchmark, against what is stored.

    More than the margin is a suspect, which pairs decide: another build of a library than the one
    beside which the baseline was recorded holds more, too.
    """
    stored, held = {} if baseline is None else baseline.start, run.start.get(HELD)
    if HELD not in stored or held is None:
        who = "this process does not tell it" if HELD in stored else (
            "the baseline does not have it (baseline record and accept store it)"
        )  # fmt: skip
        text = f"what a process holds before its first benchmark was not judged: {who}"
        return Finding("", HELD, Status.NOT_GATED, None, held, text, "memory")
    status = Status.OK
    if not RULE.loss(stored[HELD], held) <= RULE.allowed(stored[HELD]):
        status = Status.SUSPECT if _gates_memory(policy) else Status.NOT_PROVEN
    return _held(status, stored[HELD], held)


def _gates_memory(policy: Policy) -> bool:
    return any(
        policy.metrics[metric].family == "memory"
        for entry in policy.entries if entry.tier == "gate" for metric in entry.metrics
    )  # fmt: skip


def _held(status: Status, before: float, now: float) -> Finding:
    change = f"{before / 2**20:.0f} -> {now / 2**20:.0f} MiB"
    text = f"{change} held before the first benchmark (imports); {RULE.relative:.0%} is allowed"
    return Finding("", HELD, status, before, now, text, "memory")


def start_notes(blocks: Sequence[Block]) -> Iterator[str]:
    """Both arms' processes in a line; louder where the start takes much longer.

    No benchmark's time would show that.
    """
    arms: dict[Side, dict[str, float]] = {side: {} for side in SIDES}
    for side, facts in arms.items():
        for name in (START, HELD, PEAK):
            values = _values(blocks, side, name)
            facts |= {name: median(values)} if values else {}
    base, head = arms["base"], arms["head"]
    if not base or not head:
        return
    slow = START in base and START in head and _is_slow(base[START], head[START])
    title = "SLOWER START (shown, not gated)" if slow else "processes"
    yield f"{title}: base {describe_start(base)}; head {describe_start(head)}"


def _is_slow(before: float, after: float) -> bool:
    return after - before > max(SLOW * before, SLOW_S)


def _values(blocks: Sequence[Block], side: Side, name: str) -> list[float]:
    sessions = [block.session(side) for block in blocks]
    return [session.start[name] for session in sessions if name in session.start]
