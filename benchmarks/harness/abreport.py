"""What people read of an A/B: one table, live and at the end, as text, Markdown and JSON."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.harness.again import again
from benchmarks.harness.compare import UNSTEADY, Compared, Comparison
from benchmarks.harness.markdown import APPROVAL
from benchmarks.harness.pairs import PairedVerdict, State
from benchmarks.harness.policy import Policy
from benchmarks.harness.record import SCHEMA
from benchmarks.harness.report import Line, Row, show, table
from benchmarks.harness.rules import Status
from benchmarks.harness.trees import Arm
from benchmarks.harness.verdict import CODES, Code
from benchmarks.harness.versus import Ended

HEADER = ("benchmark", "base", "head", "change", "between", "p", "blocks", "finds", "verdict")
LEGEND = (
    "change: head against base, the trimmed mean of log ratios, one per block (a fresh process per "
    "arm). between: its bounds, one-sided 95 % after six blocks, 97.5 % later. p: adjusted for the "
    "whole suite; red below 0.01. finds: the smallest slowdown that these blocks could have found"
)
MAX_MARKDOWN_LINES = 60
INTERRUPTED = 2
"""The exit code of a comparison that was interrupted: pytest's own."""


@dataclass(frozen=True)
class Report:
    """A comparison and everything that explains it."""

    comparison: Comparison
    base: Arm
    head: Arm
    policy: Policy
    machine: str
    ended: Ended
    seconds: float
    num_blocks: int
    command: str
    """How to go on, or to see it again."""
    notes: tuple[str, ...] = ()
    """What a reader must know: injected faults, whose benchmarks judge."""
    approvals: tuple[str, ...] = ()
    """Why an owner must approve, beside the verdict: what the change does to its own gate."""

    @property
    def code(self) -> Code:
        """The exit code."""
        return self.comparison.code

    @property
    def verdict(self) -> str:
        """The verdict's name; what was interrupted has none."""
        return "INTERRUPTED" if self.ended is Ended.INTERRUPTED else self.code.name

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        return INTERRUPTED if self.ended is Ended.INTERRUPTED else self.code.value


def rows(comparison: Comparison, *, running: bool = False) -> Iterator[Row]:
    """One row per time and per other finding that deserves one."""
    for entry in comparison.entries:
        finding = entry.finding
        quiet = entry.pairs is None and finding.status in (Status.OK, Status.SKIPPED)
        if finding.id and not (quiet and finding.family != "accuracy"):
            yield _row(entry, running=running)


def _row(entry: Compared, *, running: bool) -> Row:
    finding, pairs = entry.finding, entry.pairs
    name = f"{finding.id} {'' if finding.metric == 'time_s' else finding.metric}".strip()
    shown = show(finding.metric, finding.baseline), show(finding.metric, finding.now)
    if pairs is None or pairs.num_blocks == 0:
        return Row(
            (name, *shown, _ratio(entry), "", "", "", "", finding.status.value), _colour(entry)
        )
    measuring = pairs.state is State.MORE
    word = f"{pairs.missing_blocks} blocks to go" if measuring else word_for(entry)
    word += " ~" if UNSTEADY in finding.detail else ""
    cells = (
        name, *shown, f"{pairs.effect:+.1%}", between(pairs), p_value(pairs.p),
        str(pairs.num_blocks), percent(pairs.detectable), word,
    )  # fmt: skip
    return Row(cells, "" if running and measuring else _colour(entry))


def word_for(entry: Compared) -> str:
    """The verdict in a word or two."""
    if entry.pairs is not None and entry.finding.status in (Status.SUSPECT, Status.UNDECIDED):
        return Status.UNDECIDED.value
    if entry.pairs is not None and entry.finding.status is Status.WORSE:
        return State.FAIL.value
    return entry.finding.status.value


def between(pairs: PairedVerdict) -> str:
    """The interval of an effect."""
    return f"{percent(pairs.low)} .. {percent(pairs.high)}"


def percent(share: float) -> str:
    """A share in percent, with a sign; what six processes cannot bound is infinite."""
    return f"{share:+.1%}" if abs(share) < 10 else ("any" if math.isinf(share) else f"{share:+.0%}")


def p_value(p: float) -> str:
    """A probability, as short as it can be."""
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def _ratio(entry: Compared) -> str:
    before, now = entry.finding.baseline, entry.finding.now
    return f"{now / before - 1:+.1%}" if before and now is not None else ""


def _colour(entry: Compared) -> str:
    status = entry.finding.status
    if status in (Status.SUSPECT, Status.UNDECIDED, Status.NOT_PROVEN, Status.INVALID):
        return "yellow"
    if status in CODES:
        return "red"
    return "green" if status is Status.BETTER else ""


def lines(report: Report) -> Iterator[Line]:
    """The whole report as text."""
    for reason in report.approvals:
        yield Line(f"{APPROVAL}: {reason}", "red")
    yield from _head(report)
    yield Line("")
    found = [*rows(report.comparison)]
    if found:
        yield from table(HEADER, found)
        yield Line(f"  {LEGEND}")
        for entry in report.comparison.entries:
            finding = entry.finding
            if finding.detail and (entry.pairs or finding.status is Status.NOT_GATED):
                yield Line(f"  {finding.id}: {finding.detail}")
        yield Line("")
    for text, colour in _explained(report):
        yield Line(text, colour)


def _head(report: Report) -> Iterator[Line]:
    for name, arm in (("base", report.base), ("head", report.head)):
        yield Line(f"{name}      {arm.label}, commit {arm.commit}, package {arm.digest}")
    yield Line(f"machine   {report.machine}")
    yield Line(
        f"evidence  {report.num_blocks} blocks in {report.seconds:.0f} s, "
        f"{report.comparison.num_gated} gated times; {report.ended.value}"
    )
    for note in report.notes:
        yield Line(f"note      {note}", "yellow")


def _explained(report: Report) -> Iterator[tuple[str, str]]:
    """Each red finding with how much, how sure, who to ask; then the verdict."""
    for entry in report.comparison.red:
        yield from _explain(report, entry)
    code = report.code
    counted = sum(entry.pairs is not None for entry in report.comparison.entries)
    if code is Code.PASS:
        worst = "nothing proven worse"
    else:
        worst = f"see above ({len(report.comparison.red)})"
        if report.ended is not Ended.DECIDED or code is Code.INCONCLUSIVE:
            yield f"to go on: {report.command}", ""
    colour = "green" if report.exit_code == Code.PASS else "red"
    told = f"{report.verdict} (exit code {report.exit_code})"
    told += f", so far {code.name}" if report.ended is Ended.INTERRUPTED else ""
    if report.approvals and report.exit_code == Code.PASS:
        told, colour = f"{told}, once an owner has approved what stands at the top", "yellow"
    yield f"{told}: {counted} times in pairs, {worst}", colour


def _explain(report: Report, entry: Compared) -> Iterator[tuple[str, str]]:
    finding, pairs = entry.finding, entry.pairs
    name = f"{finding.id} {finding.metric}".strip() or "the whole run"
    colour = _colour(entry)
    if pairs is None or pairs.num_blocks == 0:
        undecided = finding.status is Status.SUSPECT
        word = "not decided, more to measure" if undecided else finding.status.value
        yield f"{name}: {word}. {finding.detail}", colour
    elif finding.status is Status.WORSE:
        yield f"{name}: slower by {pairs.effect:.1%}, between {between(pairs)}", colour
        sure = f"p {p_value(pairs.p)} for the whole suite, {pairs.num_blocks} fresh blocks"
        yield f"    {sure}; {report.base.commit} -> {report.head.commit}", ""
    else:
        so_far = f"{pairs.effect:+.1%} between {between(pairs)} after {pairs.num_blocks} blocks"
        if pairs.missing_blocks:
            yield f"{name}: not decided, {pairs.missing_blocks} blocks to go; {so_far}", colour
        else:
            finds = f"which could have found {percent(pairs.detectable)}"
            if pairs.stopped is not None:
                finds = f"given up: all blocks together could have found {percent(pairs.stopped)}"
            yield f"{name}: cannot tell, {so_far}, {finds}", colour
    if finding.status in (Status.SUSPECT, Status.UNDECIDED):
        return
    if entry.node and (command := again(report.command, report.base, entry.node, finding.id)):
        yield f"    to see it again: {command}", ""
    entry_of = report.policy.entry(finding.id)
    if entry_of is not None:
        yield f"    owner: {entry_of.owner}", ""


def markdown(report: Report) -> str:
    """At most 60 lines for a job summary: the verdict, what is red, then the table."""
    text = [
        f"### {report.verdict}: {_cell(report.head.label)} against {_cell(report.base.label)}",
        "",
        *(f"> **{APPROVAL}:** {_cell(reason)}" for reason in report.approvals),
        *([""] if report.approvals else []),
        f"`{report.base.commit}` → `{report.head.commit}`, {report.num_blocks} blocks in "
        f"{report.seconds:.0f} s, {report.ended.value}. {_cell(report.machine)}",
        *(f"**{_cell(note)}**" for note in report.notes),
        "",
        *(_cell(line) if line.startswith(" ") else f"- {_cell(line)}"
          for line, _ in [*_explained(report)][:20]),
        "",
        f"| {' | '.join(HEADER)} |",
        f"|---{'|---:' * (len(HEADER) - 2)}|---|",
    ]  # fmt: skip
    # What is red comes first: the table is cut from below.
    found = sorted(rows(report.comparison), key=lambda row: row.colour != "red")
    room = MAX_MARKDOWN_LINES - len(text) - 3
    text += [f"| {' | '.join(map(_cell, row.cells))} |" for row in found[:room]]
    if len(found) > room:
        text += ["", f"{len(found) - room} more rows are in the JSON"]
    return "\n".join(text) + "\n"


def _cell(text: str) -> str:
    """Text without what Markdown or HTML would take for its own."""
    for char in "\\|<>`*_[]":
        text = text.replace(char, f"&#{ord(char)};")
    return text


def content(report: Report) -> dict[str, object]:
    """The result for other programs."""
    return {
        "schema": SCHEMA,
        "kind": "comparison",
        "verdict": report.verdict,
        "code": report.exit_code,
        "ended": report.ended.value,
        "base": _arm(report.base),
        "head": _arm(report.head),
        "machine": report.machine,
        "num_blocks": report.num_blocks,
        "num_gated": report.comparison.num_gated,
        "seconds": round(report.seconds, 1),
        "notes": list(report.notes),
        "approvals": list(report.approvals),
        "findings": [_entry(entry) for entry in report.comparison.entries],
    }


def _arm(arm: Arm) -> dict[str, str]:
    return {"label": arm.label, "commit": arm.commit, "digest": arm.digest}


def _entry(entry: Compared) -> dict[str, object]:
    finding, pairs = entry.finding, entry.pairs
    found: dict[str, object] = {
        "id": finding.id, "metric": finding.metric, "status": finding.status.name,
        "base": _number(finding.baseline), "head": _number(finding.now), "detail": finding.detail,
    }  # fmt: skip
    if pairs is not None:
        names = ("effect", "low", "high", "p", "detectable")
        found |= {name: _number(getattr(pairs, name)) for name in names}
        found |= {
            "state": pairs.state.name, "route": pairs.route.value, "num_blocks": pairs.num_blocks,
            "missing_blocks": pairs.missing_blocks, "faster": pairs.faster,
        }  # fmt: skip
    return found


def _number(value: float | None) -> float | None:
    """JSON has no infinities; six digits are enough."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def texts(found: Sequence[Line]) -> str:
    """Lines without their colours."""
    return "\n".join(line.text for line in found)
