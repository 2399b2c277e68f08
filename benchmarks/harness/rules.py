"""The rule for one metric of one benchmark against a stored number.

A stored number cannot carry fine differences. What is worse by more than the policy's margin, after
the canaries have told how much slower the machine itself is, is a suspect; it is red when three
fresh processes were worse, too. Where five sessions have told the noise, a time beyond what one
more session could show by chance, and beyond 15 %, needs only one: at once, as it could be, one
disturbed process among thirty raised false alarms in 1.3 % of unchanged suites (simulated).
Accuracy, GPU memory and counters repeat, and are red at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from benchmarks.harness.baseline import Noise
from benchmarks.harness.policy import Family, MetricRule
from benchmarks.harness.record import Record
from benchmarks.harness.statistics import geometric_mean

CONFIRMATIONS = 3
"""Fresh processes that must all agree before a noisy metric is red."""
RERUNS = 2
"""An invalid measurement is repeated at most this often."""
BUSY = 1.25
"""Canaries above this against the baseline's: the machine is busy, and slowness proves nothing."""
FOREIGN = 1.5
"""Canaries this much slower than the baseline's excuse nothing; slower or faster, praise nothing.

A busy neighbour or a lower clock is within it, twice over (`BUSY`). Beyond it the benchmark would
have to slow down exactly as the canaries do; one that does so only half as much would hide a loss
as large as the policy's whole margin of 25 % behind a machine of 1.5.
"""
KNOWN_SESSIONS = 5
"""Recorded sessions from which a benchmark's noise counts as known."""
GROSS = 0.15
"""A time worse by less than this share is never gross."""
GROSS_BUDGET = 0.01
"""Largest chance that an unchanged suite has a time beyond its prediction interval."""
MAX_REACH = 10.0
"""A wider interval, on the scale of logarithms, excludes nothing."""
WIDEST = 1.0 / 3.0
"""Of an accuracy, the share that its interval over seeds may excuse at most.

Three seeds that scatter can give an interval as wide as the value, which no loss exceeds. A third
is what an honest interval of such short trainings comes to (0.08 m of 0.40 m take a fifth); a loss
beyond it is one that nobody would take for the luck of a seed, and the seeds are the same.
"""
NOTICE = 0.10
"""A time worse by this share, and less than the margin, is named: slower, not proven."""


class Status(Enum):
    """What was found; the value is the word in the table."""

    OK = "ok"
    BETTER = "better"
    NEW = "new"
    REMOVED = "removed"
    SKIPPED = "skipped"
    NOT_PROVEN = "worse, not proven"
    NOT_GATED = "not compared"
    SUSPECT = "to be repeated"
    UNDECIDED = "CANNOT TELL"
    INVALID = "INVALID"
    WORSE = "WORSE"
    WRONG = "WRONG ANSWER"
    IMPOSSIBLE = "IMPOSSIBLE"
    MISSING = "MISSING"
    ERRORED = "CRASHED"
    UNLISTED = "NO POLICY"
    STALE = "STALE"
    DUPLICATE = "DUPLICATE"
    NO_BASELINE = "NO BASELINE"


@dataclass(frozen=True)
class Finding:
    """One judgement, with the evidence in words. Without an id it is about the whole run."""

    id: str
    metric: str
    """Empty: about the benchmark as a whole."""
    status: Status
    baseline: float | None = None
    now: float | None = None
    detail: str = ""
    family: Family | None = None


@dataclass(frozen=True)
class Case:
    """A metric, its rule, and every measurement of it; `base` is None on a first run."""

    metric: str
    rule: MetricRule
    base: Record | None
    now: Record
    again: tuple[Record, ...]
    same_runtime: bool
    noise: Noise | None = None
    """How far this benchmark's recorded sessions lie apart, if there were several."""
    num_times: int = 1
    """Gated times of the whole run, which share the chance of a false alarm."""

    def gross(self) -> float:
        """The share beyond which a time is grossly slower; infinite where its noise is unknown."""
        if self.noise is None or self.noise.sessions < KNOWN_SESSIONS:
            return math.inf
        reach = self.noise.reach(self.metric, 1.0 - GROSS_BUDGET / self.num_times)
        return max(GROSS, math.inf if reach > MAX_REACH else math.expm1(reach))

    def finding(self, status: Status, detail: str = "") -> Finding:
        """A finding about this metric."""
        before = None if self.base is None else self.base.metrics.get(self.metric)
        after = self.now.metrics.get(self.metric)
        return Finding(self.now.id, self.metric, status, before, after, detail, self.rule.family)


@dataclass(frozen=True)
class Measured:
    """One measurement against the baseline."""

    share: float
    """By how much it is worse, as a share of the baseline, the machine's own slowness taken out."""
    loss: float
    """The same in the metric's unit."""
    machine: float
    """How much slower the canaries were, at least 1: they excuse, they never accuse."""
    busy: bool


def judge_metric(case: Case) -> Finding | None:
    """Judge one metric; None where neither the run nor the baseline has it."""
    after = case.now.metrics.get(case.metric)
    before = None if case.base is None else case.base.metrics.get(case.metric)
    if after is None:
        if before is None:
            return None
        why = "; ".join(note for note in case.now.notes if case.metric in note)
        return case.finding(Status.MISSING, why or "the baseline has this metric, the run has not")
    problem = impossible(case.rule, after)
    if problem:
        return case.finding(Status.IMPOSSIBLE, problem)
    if case.base is None or before is None:
        if case.rule.family == "time" and case.now.invalid:
            return case.finding(Status.INVALID, "; ".join(case.now.invalid))
        return case.finding(Status.NEW)
    if case.rule.family == "time":
        return _judge_time(case, case.base)
    if case.rule.confirm is not None:
        return _judge_noisy(case, case.base, (case.now, *case.again))
    return _judge_exact(case, case.base)


def impossible(rule: MetricRule, value: float) -> str:
    """Why a value cannot be a measurement; empty where it can."""
    if not math.isfinite(value):
        return f"{value} is not a measurement"
    if (rule.family == "time" and value <= 0) or (rule.family == "memory" and value < 0):
        return f"{value} cannot be"
    if rule.family == "accuracy" and rule.better == "lower" and value == 0:
        return "an error of exactly zero: nothing was compared"
    return ""


def _judge_exact(case: Case, base: Record) -> Finding:
    before, after = base.metrics[case.metric], case.now.metrics[case.metric]
    interval, cut = usable_interval(before, base.intervals.get(case.metric, 0.0))
    allowed = max(case.rule.allowed(before), interval)
    loss = case.rule.loss(before, after)
    by_seeds = interval == allowed > 0
    reason = "the interval over its seeds" if by_seeds else "the policy's margin"
    aside = cut if by_seeds else ""
    if loss > allowed:
        text = f"worse by {loss:.4g}; {reason} allows {allowed:.4g}"
        return case.finding(Status.WORSE, f"{text} ({aside})" if aside else text)
    return case.finding(Status.BETTER if loss < -allowed else Status.OK, aside)


def usable_interval(value: float, interval: float) -> tuple[float, str]:
    """What of an accuracy's interval counts, and in words what does not; empty if all does."""
    most = WIDEST * abs(value)
    if interval <= most:
        return interval, ""
    return most, f"interval {interval:.3g} counts as {most:.3g}, a third of the value"


def _judge_time(case: Case, base: Record) -> Finding:
    if (base.clock, base.cache) != (case.now.clock, case.now.cache):
        declared = f"{case.now.clock}/{case.now.cache}, the baseline {base.clock}/{base.cache}"
        return case.finding(Status.STALE, f"the benchmark now declares {declared}: record it again")
    if not case.same_runtime and _clock(case.metric, base) != "gpu":
        text = "the container runtime is not the baseline's: wall times are shown, not gated"
        return case.finding(Status.NOT_GATED, text)
    samples = [record for record in (case.now, *case.again) if not _unfit(case, base, record)]
    if samples:
        return _judge_noisy(case, base, samples)
    reasons = _unfit(case, base, case.now)
    if len(case.again) < RERUNS:
        return case.finding(Status.SUSPECT, f"invalid: {reasons}")
    return case.finding(Status.INVALID, f"{reasons} ({1 + len(case.again)} tries)")


def _unfit(case: Case, base: Record, record: Record) -> str:
    """Why a time can be held against no stored one; empty where it can.

    What is not worse as it was read needs no excuse: a busy machine does not end a run that nothing
    slowed down.
    """
    factor = machine_factor(case.metric, base, record)
    reasons = [*record.invalid]
    before = base.metrics[case.metric]
    loss = case.rule.loss(before, record.metrics.get(case.metric, math.nan))
    if factor > FOREIGN and not loss <= case.rule.allowed(before):
        told = f"{factor:.2f}x slower than beside the baseline (canaries)"
        reasons.append(f"the machine itself is {told}")
    return "; ".join(reasons)


def _judge_noisy(case: Case, base: Record, records: Sequence[Record]) -> Finding:
    rule, before = case.rule, base.metrics[case.metric]
    first, *again = [_compare(case, base, record) for record in records]
    confirm = rule.confirm
    if rule.family == "time" and all(_is_gross(case, one) for one in (first, *again[:1])):
        limit = f"{case.gross():.0%} is the most that one more session could show by chance"
        again_too = f", {again[0].share:+.0%} in a fresh process" if again else ""
        text = f"{first.share:+.0%} in this run{again_too}; {limit}"
        return case.finding(Status.WORSE if again else Status.SUSPECT, text)
    if first.loss <= rule.allowed(before):
        if rule.family == "time" and first.share > NOTICE:
            text = f"{first.share:+.0%}, below the margin of {rule.relative:.0%}"
            return case.finding(Status.NOT_PROVEN, text)
        factor = machine_factor(case.metric, base, records[0])
        foreign = not 1.0 / FOREIGN <= factor <= FOREIGN
        better = first.loss < -rule.allowed(before) and not (foreign and rule.family == "time")
        return case.finding(Status.BETTER if better else Status.OK)
    excused = f", the machine itself {first.machine - 1:.0%} slower" if first.machine > 1.01 else ""
    if confirm is None:
        return case.finding(Status.WORSE, f"{first.share:+.0%}{excused}")
    worse = [not s.busy and s.loss > rule.allowed(before, confirm) for s in again]
    shares = ", ".join(f"{s.share:+.0%}{' (busy machine)' if s.busy else ''}" for s in again)
    text = f"{first.share:+.0%} in this run{excused}; in fresh processes {shares or 'not yet'}"
    if not all(worse):
        return case.finding(Status.NOT_PROVEN, text)
    return case.finding(Status.WORSE if len(worse) >= CONFIRMATIONS else Status.SUSPECT, text)


def _is_gross(case: Case, sample: Measured) -> bool:
    return not sample.busy and sample.share > case.gross()


def _compare(case: Case, base: Record, record: Record) -> Measured:
    before = base.metrics[case.metric]
    # A fresh process that lacks the number or has an impossible one confirms nothing.
    after = record.metrics.get(case.metric, math.nan)
    slower, worst = 1.0, 1.0
    if case.rule.family == "time":
        slower, worst = machine_slower(_clock(case.metric, base), base, record)
    after = after / slower if case.rule.better == "lower" else after * slower
    loss = case.rule.loss(before, after)
    share = loss / abs(before) if before else math.inf
    # Neighbours stretch wall time; processor time they leave alone.
    busy = worst > BUSY and _clock(case.metric, base) != "cpu"
    return Measured(share, loss, slower, busy)


def _clock(metric: str, base: Record) -> str:
    """The clock of a time: named by the metric, else what the benchmark declares."""
    clock = metric.removesuffix("_s")
    return clock if clock in ("wall", "cpu", "gpu") else base.clock


def machine_factor(metric: str, base: Record, now: Record) -> float:
    """How much slower the canaries are on a metric's clock than beside the baseline: their mean."""
    return geometric_mean(_ratios(_clock(metric, base), base, now))


def machine_slower(clock: str, base: Record, now: Record) -> tuple[float, float]:
    """How much slower the canaries are than beside the baseline: their mean (>= 1), the worst.

    Never below 1: a canary that was disturbed while the baseline was recorded would otherwise
    accuse every later run.
    """
    ratios = _ratios(clock, base, now)
    return max(1.0, geometric_mean(ratios)), max([1.0, *ratios])


def _ratios(clock: str, base: Record, now: Record) -> list[float]:
    names = [name for name in base.canary if name.startswith(f"{clock}.")]
    pairs = [(base.canary[name], now.canary.get(name, 0.0)) for name in names]
    return [after / before for before, after in pairs if before > 0 and after > 0]
