"""Benchmarks that came or went with a change: declared ones need an owner, lost ones are red.

New is what the base's suite and baseline have never had; the head's policy must list it. Removed is
what the head has taken out of its suite and out of its policy. Neither is ever silent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.judge import Terms
from benchmarks.harness.known import bare
from benchmarks.harness.parameters import matches
from benchmarks.harness.record import Session
from benchmarks.harness.rules import Finding, Status
from benchmarks.harness.screen import Screened

MAX_NAMES = 10
PROMISED = "the head's suite has lost it, and an entry of its policy still promises it"
TURNOVER = {
    Status.NEW: "new here, so there is no base to compare with",
    Status.REMOVED: "removed from the suite and from its policy",
}


def with_turnover(
    found: Screened, run: Session, baseline: Baseline | None, terms: Terms, *, selected: bool
) -> Screened:
    """A screen that knows what the head has declared. With `selected` (-k) nothing has gone."""
    findings = [_declared(finding, run, terms) for finding in found.findings]
    if not selected:
        findings += _lost_names({finding.id for finding in findings}, run, terms)
    findings += _new(run, baseline, terms)
    return replace(found, findings=tuple(findings))


def _declared(finding: Finding, run: Session, terms: Terms) -> Finding:
    """A benchmark, or an entry of the policy, that is missing because the head took it away."""
    if finding.metric or finding.status is not Status.MISSING or not finding.id:
        return finding
    if _is_defined(finding.id, run, terms):
        return finding
    kept = any(entry.name == finding.id for entry in terms.declared.entries)
    if kept or terms.declared.entry(finding.id) is not None:
        return replace(finding, detail=f"{finding.detail}; {PROMISED}")
    return replace(finding, status=Status.REMOVED, detail=TURNOVER[Status.REMOVED])


def _is_defined(name: str, run: Session, terms: Terms) -> bool:
    """Whether the head's suite still has what was not run: a name, or an entry that fits one.

    Of a name that was run with other parameters, this one is gone.
    """
    if "[" in name:
        return bare(name) in terms.head_names and not any(
            bare(record.id) == bare(name) for record in run.records
        )
    return any(matches(name, one) for one in terms.head_names)


def _lost_names(known: set[str], run: Session, terms: Terms) -> Iterator[Finding]:
    """What only the base's suite defines: a baseline may never have held it."""
    told = {bare(name) for name in known} | {bare(record.id) for record in run.records}
    for name in sorted(terms.base_names - terms.head_names - told):
        if terms.declared.entry(name) is None:
            yield Finding(name, "", Status.REMOVED, detail=TURNOVER[Status.REMOVED])
        else:
            text = f"is in the base's suite; {PROMISED}"
            yield Finding(name, "", Status.MISSING, detail=text)


def _new(run: Session, baseline: Baseline | None, terms: Terms) -> Iterator[Finding]:
    known = terms.known(baseline)
    for record in run.records:
        listed = terms.policy.entry(record.id) is not None
        if record.outcome == "passed" and listed and not known.knows(record.id):
            yield Finding(record.id, "", Status.NEW, detail=TURNOVER[Status.NEW])


def approvals_in(findings: Sequence[Finding]) -> tuple[str, ...]:
    """What an owner must approve of the benchmarks that came and went."""
    asked = []
    for status, why in TURNOVER.items():
        names = sorted({f.id for f in findings if f.status is status and f.id and not f.metric})
        if names:
            more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
            asked.append(f"{why}: {', '.join(names[:MAX_NAMES])}{more}")
    return tuple(asked)
