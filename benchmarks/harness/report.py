"""What people read: the machine, one table, and for each red line what, how much and how sure."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.ceiling import shares
from benchmarks.harness.policy import Policy
from benchmarks.harness.record import Record, Session
from benchmarks.harness.rules import Finding, Status, machine_factor
from benchmarks.harness.startup import describe_start
from benchmarks.harness.verdict import CODES, Code, Verdict

MARKS = {"unsteady": " ~", "scattered": " ≈"}
MEANING = {
    "unsteady": "still changing by over 0.5 % when warm-up was cut off",
    "scattered": "no change that their scatter does not explain, but never within 0.5 %",
}
HEADER = ("benchmark", "baseline", "now", "ratio", "verdict")
UNITS = (
    ("_per_s", 1.0, "/s"),
    ("_bytes", 2.0**-20, "MiB"),
    ("_j", 1.0, "J"),
    ("_db", 1.0, "dB"),
    ("_deg", 1.0, "deg"),
    ("_m", 1.0, "m"),
)
NOTEWORTHY = 0.05
"""A machine slower or faster by more than this share is told beside the time that it stretches."""
CEILINGS = {"bytes": "the copy bandwidth", "flop": "the matrix rate"}
TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


@dataclass(frozen=True)
class Line:
    """One line of the report and its colour: "", "green", "yellow" or "red"."""

    text: str
    colour: str = ""


@dataclass(frozen=True)
class Judgement:
    """A verdict and everything that explains it."""

    verdict: Verdict
    run: Session
    baseline: Baseline | None
    policy: Policy
    path: Path
    arguments: tuple[str, ...] = ()
    """Options that select the same benchmarks again."""
    recorded: tuple[str, ...] = ()
    """Ids that this run stored in the baseline."""


def lines(judgement: Judgement) -> Iterator[Line]:
    """The whole report, line by line."""
    yield Line(f"machine   {judgement.run.machine.describe()}")
    yield Line(f"baseline  {describe_baseline(judgement)}")
    if judgement.run.start:
        yield Line(f"process   {describe_start(judgement.run.start)}")
    yield from _warnings(judgement)
    yield Line("")
    yield from table(HEADER, [*rows(judgement)])
    yield from _footnotes(judgement.run.records)
    yield from _ceilings(judgement.run)
    yield Line("")
    yield from explain(judgement)


def counts(records: Sequence[Record]) -> Iterator[str]:
    """One line per counted benchmark."""
    for record in records:
        told = ", ".join(f"{count:,} {name}" for name, count in sorted(record.counters.items()))
        if told:
            yield f"  {record.id}: {told}"


def describe_baseline(judgement: Judgement) -> str:
    """Where the baseline lies, or that there is none yet."""
    if judgement.baseline is None:
        return f"none yet for {judgement.run.machine.key} ({judgement.path})"
    return f"{judgement.path}"


def _warnings(judgement: Judgement) -> Iterator[Line]:
    if judgement.run.faults:
        text = f"INJECTED FAULTS (BENCHMARK_FAULT): {judgement.run.faults}"
        yield Line(f"{text}; this run says nothing about the code", "red")
    if judgement.baseline is None:
        return
    before, now = judgement.baseline.machine.versions, judgement.run.machine.versions
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    changed = [f"{n} {before.get(n, 'none')} -> {now.get(n, 'none')}" for n in names]
    if changed:
        yield Line(f"versions  {', '.join(changed)}: judged like any other change", "yellow")


@dataclass(frozen=True)
class Row:
    """One row of a table and its colour."""

    cells: tuple[str, ...]
    colour: str


def rows(judgement: Judgement) -> Iterator[Row]:
    """One row per benchmark with its time, and one per finding that deserves its own."""
    by_id: dict[str, list[Finding]] = {}
    for finding in judgement.verdict.findings:
        by_id.setdefault(finding.id, []).append(finding)
    records = judgement.run.by_id()
    for name in dict.fromkeys([*records, *by_id]):
        findings = by_id.get(name, [])
        record = records.get(name)
        time = next((f for f in findings if f.family == "time"), None)
        if record is not None and record.outcome == "passed":
            yield _time_row(record, time, judgement.baseline)
        for finding in findings:
            if finding is not time and _is_shown(finding):
                yield _row(finding, finding.status.value + _aside(finding))


def _aside(finding: Finding) -> str:
    """What is worth telling beside an accuracy that is no loss."""
    told = finding.family == "accuracy" and finding.status in (Status.OK, Status.BETTER)
    return f" ({finding.detail})" if told and finding.detail else ""


def _is_shown(finding: Finding) -> bool:
    if not finding.id:
        return False
    return finding.family == "accuracy" or finding.status not in (Status.OK, Status.NEW)


def _time_row(record: Record, gated: Finding | None, baseline: Baseline | None) -> Row:
    """The gated time; a time that is not gated is shown without a judgement."""
    mark = MARKS.get(record.warm_up, "")
    stored = None if baseline is None else baseline.records.get(record.id)
    if gated is not None:
        factor = 1.0 if stored is None else machine_factor(gated.metric, stored, record)
        other = f" (machine {factor:.2f}x)" if abs(factor - 1.0) > NOTEWORTHY else ""
        return _row(gated, gated.status.value + mark + other)
    before = None if stored is None else stored.metrics.get("time_s")
    shown = Finding(record.id, "time_s", Status.OK, before, record.metrics.get("time_s"))
    return _row(shown, f"shown only{mark}")


def _row(finding: Finding, word: str) -> Row:
    before, now = finding.baseline, finding.now
    metric = "" if finding.metric == "time_s" else finding.metric
    ratio = f"{now / before:.2f}" if before and now is not None else "-"
    cells = (
        f"{finding.id} {metric}".strip(),
        show(finding.metric, before),
        show(finding.metric, now),
        ratio,
        word,
    )
    return Row(cells, _colour(finding.status))


def _colour(status: Status) -> str:
    if status in CODES:
        return "red"
    if status in (Status.NOT_PROVEN, Status.NOT_GATED):
        return "yellow"
    return "green" if status is Status.BETTER else ""


def show(metric: str, value: float | None) -> str:
    """A value with the unit that its metric's name ends in."""
    if value is None:
        return "-"
    for suffix, factor, unit in UNITS:
        if metric.endswith(suffix):
            return f"{value * factor:.4g} {unit}"
    if metric.endswith("_s"):
        scale, unit = next(((s, u) for s, u in TIME_UNITS if abs(value) >= s), TIME_UNITS[-1])
        return f"{value / scale:.4g} {unit}"
    return f"{value:.4g}"


def table(header: tuple[str, ...], found: Sequence[Row]) -> Iterator[Line]:
    """Aligned columns: text, the first and the last, to the left, numbers to the right."""
    everything = [Row(header, ""), *found]
    widths = [max(len(row.cells[n]) for row in everything) for n in range(len(header))]
    for row in everything:
        name, *numbers, word = row.cells
        middle = "  ".join(n.rjust(w) for n, w in zip(numbers, widths[1:-1], strict=True))
        yield Line(f"  {name.ljust(widths[0])}  {middle}  {word}".rstrip(), row.colour)


def _footnotes(records: Sequence[Record]) -> Iterator[Line]:
    for kind, mark in MARKS.items():
        num = sum(record.warm_up == kind for record in records)
        if num:
            yield Line(f" {mark} {num} {kind}: {MEANING[kind]}")
    for note in sorted({note for record in records for note in record.notes}):
        yield Line(f"  {note}")


def _ceilings(run: Session) -> Iterator[Line]:
    """How far each benchmark that declares its work is from what this machine reaches."""
    if not run.ceilings:
        return
    copied, multiplied = (run.ceilings[rate] for rate in ("bytes_per_s", "flop_per_s"))
    reached = f"{copied / 1e9:.4g} GB/s copied, {multiplied / 1e12:.3g} TFLOP/s multiplied"
    yield Line(f"  ceilings of this machine, measured just now: {reached}")
    for record in run.records:
        found = shares(record, run.ceilings)
        if found:
            told = ", ".join(f"{share:.1%} of {CEILINGS[name]}" for name, share in found.items())
            yield Line(f"    {record.id}: {told}")


def explain(judgement: Judgement) -> Iterator[Line]:
    """The verdict line, then the red findings, then what is only suspected."""
    verdict = judgement.verdict
    num = sum(record.outcome != "skipped" for record in judgement.run.records)
    doubtful = [f for f in verdict.findings if f.status is Status.NOT_PROVEN]
    for finding in doubtful:
        yield Line(f"{_name(finding)}: worse, not proven ({finding.detail})", "yellow")
    if doubtful:
        yield Line(f"    to know more, on a quiet machine: {_command(judgement, *doubtful)}")
    whys = Counter(f.detail for f in verdict.findings if f.status is Status.NOT_GATED)
    for why, times in whys.items():
        yield Line(f"not compared ({times} of these): {why}", "yellow")
    for finding in verdict.red:
        yield from _explain_red(judgement, finding)
    if judgement.recorded:
        text = f"recorded {len(judgement.recorded)} benchmarks as the baseline of this machine"
        yield Line(f"{text}: {judgement.path}", "green")
    colour = "green" if verdict.code is Code.PASS else "red"
    against = "nothing to compare with yet" if judgement.baseline is None else "none proven worse"
    worst = against if verdict.code is Code.PASS else f"see above ({len(verdict.red)})"
    count = f"{num} benchmark{'' if num == 1 else 's'}"
    yield Line(f"{verdict.code.name} (exit code {verdict.code.value}): {count}, {worst}", colour)


def _explain_red(judgement: Judgement, finding: Finding) -> Iterator[Line]:
    yield Line(f"{_name(finding)}: {finding.status.value}{_change(finding)}", "red")
    if finding.detail:
        yield Line(f"    {finding.detail}")
    if not finding.id:
        return
    baseline = judgement.baseline
    if baseline is not None and finding.id in baseline.origins:
        before = baseline.origins[finding.id]
        yield Line(f"    baseline from commit {before}; this is commit {judgement.run.commit}")
    entry = judgement.policy.entry(finding.id)
    owner = "" if entry is None else f" (owner: {entry.owner})"
    yield Line(f"    see it again: {_command(judgement, finding)}{owner}")


def _name(finding: Finding) -> str:
    return f"{finding.id} {finding.metric}".strip() or "the whole run"


def _change(finding: Finding) -> str:
    if finding.baseline is None or finding.now is None:
        return ""
    before, now = show(finding.metric, finding.baseline), show(finding.metric, finding.now)
    share = f" ({finding.now / finding.baseline - 1:+.1%})" if finding.baseline else ""
    return f", {before} -> {now}{share}"


def _command(judgement: Judgement, *findings: Finding) -> str:
    """How to measure exactly these benchmarks again."""
    stored = {} if judgement.baseline is None else judgement.baseline.records
    records = {**stored, **judgement.run.by_id()}
    nodes = dict.fromkeys(records[f.id].node for f in findings if f.id in records)
    words = ["python", "-m", "pytest", *nodes, "--benchmark-compare", *judgement.arguments]
    return shlex.join(words)
