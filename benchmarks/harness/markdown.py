"""A verdict as a page of Markdown and as annotations: from data that nobody vouches for.

Whatever a record says is shown as text: without control characters, links, mentions or tags.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from xml.etree import ElementTree

from benchmarks.harness.policy import Policy
from benchmarks.harness.report import show
from benchmarks.harness.rules import Finding, Status
from benchmarks.harness.verdict import CODES, Code, red

MAX_LINES = 60
MAX_TEXT = 300
APPROVAL = "AN OWNER MUST APPROVE"
SHOWN = (Status.REMOVED, Status.NOT_PROVEN, Status.NOT_GATED, Status.BETTER)
"""Worth a row of their own though they are not red."""
Effects = Mapping[tuple[str, str], float]
"""By benchmark and metric, what pairs have found: another number than the ratio of two medians."""
NO_EFFECTS: Effects = MappingProxyType({})
ACTIVE = re.compile(r"([\\`*_{}\[\]()<>#!|~@$&:])")


def plain(text: str) -> str:
    """Text that Markdown and HTML take literally, on one line, cut where it is too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    cut = line if len(line) <= MAX_TEXT else f"{line[:MAX_TEXT]}..."
    return ACTIVE.sub(lambda found: f"&#{ord(found[0])};", cut)


def page(
    code: Code,
    findings: Sequence[Finding],
    facts: Sequence[str],
    approvals: Sequence[str] = (),
    effects: Effects = NO_EFFECTS,
) -> list[str]:
    """At most 60 lines: the verdict, what an owner must approve, what it was made from, rows.

    Red rows come first, then what came, went or is doubtful.
    """
    rows = [*red(findings), *(f for f in findings if f.status in SHOWN)]
    fine = len(findings) - len(rows)
    asked = ", once an owner has approved" if approvals and code is Code.PASS else ""
    lines = [f"## {code.name} (exit code {code.value}){asked}", ""]
    lines += [f"> **{APPROVAL}:** {plain(reason)}" for reason in approvals[:10]]
    lines += [""] if approvals else []
    lines += [f"- {plain(fact)}" for fact in facts[:10]]
    if rows:
        header = ["", "| benchmark | metric | base | now | change | verdict |",
                  "|---|---|--:|--:|--:|---|"]  # fmt: skip
        room = MAX_LINES - len(lines) - len(header) - 4
        lines += [*header, *(_row(finding, effects) for finding in rows[:room])]
        if len(rows) > room:
            lines += ["", f"{len(rows) - room} more rows are left out here."]
    return [*lines, "", f"{fine} other judgements without a finding."]


def _row(finding: Finding, effects: Effects) -> str:
    before, now = finding.baseline, finding.now
    change = f"{now / before - 1:+.1%}" if before and now is not None else ""
    effect = effects.get((finding.id, finding.metric))
    change = change if effect is None else f"{effect:+.1%}"
    cells = (
        finding.id or "the whole run", finding.metric, show(finding.metric, before),
        show(finding.metric, now), change, f"{finding.status.value}. {finding.detail}",
    )  # fmt: skip
    return f"| {' | '.join(map(plain, cells))} |"


def annotations(
    findings: Sequence[Finding], policy: Policy, path: Path, approvals: Sequence[str] = ()
) -> Iterator[str]:
    """GitHub's workflow commands: each red finding on the line of the policy that it broke.

    What an owner must approve is a warning on the policy's first line.
    """
    for reason in approvals:
        yield f"::warning file=benchmarks/{path.name},line=1,title={APPROVAL}::{_data(reason)}"
    numbers = _entry_lines(path)
    for finding in red(findings):
        entry = policy.entry(finding.id)
        number = 1 if entry is None else numbers.get(entry.name, 1)
        title = f"{finding.id} {finding.metric}".strip() or "the whole run"
        text = f"{finding.status.value}: {finding.detail}"[:MAX_TEXT]
        place = f"file=benchmarks/{path.name},line={number},title={_property(title)}"
        yield f"::error {place}::{_data(text)}"


def junit(findings: Sequence[Finding]) -> str:
    """A JUnit file with one test case for each judgement."""
    suite = ElementTree.Element("testsuite", name="benchmarks", tests=str(len(findings)),
                                failures=str(len(red(findings))))  # fmt: skip
    for finding in findings:
        name = f"{finding.metric or 'coverage'} of {finding.id or 'the whole run'}"
        case = ElementTree.SubElement(suite, "testcase", classname="benchmarks", name=_legal(name))
        if finding.status in CODES:
            text = _legal(f"{finding.status.value}: {finding.detail}")
            ElementTree.SubElement(case, "failure", message=text)
    return ElementTree.tostring(suite, encoding="unicode") + "\n"


def _legal(text: str) -> str:
    """Without the control characters that XML cannot hold, cut where it is too long."""
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_TEXT]


def _entry_lines(path: Path) -> dict[str, int]:
    """Where in the policy each entry has its name."""
    found: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = re.fullmatch(r'name\s*=\s*"([^"]*)"\s*', line)
        if match:
            found.setdefault(match[1], number)
    return found


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
