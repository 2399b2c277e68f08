"""The screen of the gate: one pass against the stored baseline says what must go on to pairs.

A stored number is compared across sessions, so it only screens: whatever is not clearly fine is
measured again beside the base commit, and only that can prove a slowdown. Coverage, right answers,
exact memory and counters are decided here.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.interest import interest
from benchmarks.harness.parameters import matches
from benchmarks.harness.policy import Entry, MetricRule, Policy
from benchmarks.harness.record import Record, Session
from benchmarks.harness.rules import Finding, Status
from benchmarks.harness.selection import asked_for
from benchmarks.harness.startup import screen_start
from benchmarks.harness.verdict import judge

LOOSE = 0.01
"""Slower than the stored number by more than this share is not clearly fine."""
FINE = (Status.OK, Status.BETTER, Status.NOT_PROVEN)
"""What does not make a time a suspect by itself; the loose screen looks at each of them."""
FOR_PAIRS = (
    Status.OK, Status.BETTER, Status.NEW, Status.NOT_PROVEN, Status.NOT_GATED, Status.SUSPECT,
    Status.INVALID, Status.WORSE,
)  # fmt: skip
"""What the stored baseline may say about a time without deciding anything."""
SEEDED = (Status.OK, Status.BETTER, Status.NEW, Status.WORSE)
"""What it may say about an accuracy over seeds, which the pairs decide. One without seeds repeats,
and is decided here."""


@dataclass(frozen=True)
class Screened:
    """What one pass has decided, and what it leaves to pairs."""

    findings: tuple[Finding, ...]
    """Decided here: coverage, answers, memory, counters, times that cannot be."""
    suspects: tuple[str, ...]
    """Benchmarks with a time (or noisy memory) that is not clearly fine."""
    paired: tuple[str, ...]
    """Benchmarks that always go on to pairs: accuracies over seeds, the same in both arms.

    And the quickest one, where the process holds more before any benchmark than is stored: every
    pair of processes tells that.
    """
    num_gated: int
    """Gated times of the whole pass, which share the error budget."""
    unjudged: str = ""
    """Why what a process holds at its start is left to pairs, where no baseline tells it."""
    quickest: str = ""
    """The gated benchmark that takes the least time."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Everything that is measured in pairs."""
        return tuple(sorted({*self.suspects, *self.paired}))


def screen(
    run: Session, baseline: Baseline | None, policy: Policy, *, keyword: str = ""
) -> Screened:
    """Screen a pass of the head; with a `keyword` (-k) only what that asks for can be missing."""
    stored = {} if baseline is None else baseline.records
    expected = _asked_for(run, stored, keyword) if keyword else [*stored]
    verdict = judge(run, baseline, policy, expected=expected, baseline_required=True)
    kept: list[Finding] = [] if keyword else [*_without_benchmark(run, policy)]
    gated = [*_gated(run, policy)]
    seeded = {
        record.id for record, entry in gated
        if any(metric in record.samples for metric in entry.metrics)
    }  # fmt: skip
    doubted, decided = _sorted_out(verdict.findings, seeded)
    kept += decided
    loose = {
        record.id for record, entry in gated
        if any(_loose(record, stored.get(record.id), metric, entry, rule)
               for metric, rule in _times(record, entry, policy))
    }  # fmt: skip
    suspects = (doubted & {record.id for record, _ in gated}) | loose
    quickest = min(((record.cost_s, record.id) for record, _ in gated), default=(0.0, ""))[1]
    held = screen_start(run, baseline, policy)
    by_pairs = held.status is Status.SUSPECT and bool(quickest)
    unjudged = held.detail if held.status is Status.NOT_GATED else ""
    return Screened(
        tuple(kept if by_pairs or unjudged else [*kept, held]),
        tuple(sorted(suspects)),
        tuple(sorted({*seeded, quickest} if by_pairs else seeded)),
        sum(len([*_times(record, entry, policy)]) for record, entry in gated),
        unjudged,
        quickest,
    )


def _sorted_out(
    findings: Sequence[Finding], seeded: Collection[str]
) -> tuple[set[str], list[Finding]]:
    """What pairs must look at again, by benchmark, and what is decided here."""
    doubted: set[str] = set()
    decided: list[Finding] = []
    for finding in findings:
        if finding.id in seeded and finding.family == "accuracy" and finding.status in SEEDED:
            continue
        noisy = finding.family == "time" and finding.status in FOR_PAIRS
        if not noisy and finding.status is not Status.SUSPECT:
            decided.append(finding)
        elif finding.status not in FINE:
            doubted.add(finding.id)
    return doubted, decided


def _asked_for(run: Session, stored: Mapping[str, Record], keyword: str) -> list[str]:
    """Ids of the baseline that were run, or that -k would choose if the suite still had them."""
    had = {*run.by_id(), *run.deselected}
    lost = [record for name, record in stored.items() if name not in had]
    known = (*run.records, *(record for name, record in stored.items() if name in had))
    return [*(name for name in stored if name in run.by_id()), *asked_for(keyword, lost, known)]


def _gated(run: Session, policy: Policy) -> Iterator[tuple[Record, Entry]]:
    for record in run.records:
        entry = policy.entry(record.id)
        if record.outcome == "passed" and entry is not None and entry.tier == "gate":
            yield record, entry


def _times(record: Record, entry: Entry, policy: Policy) -> Iterator[tuple[str, MetricRule]]:
    for metric in entry.metrics:
        if metric in record.metrics and policy.metrics[metric].family == "time":
            yield metric, policy.metrics[metric]


def _loose(now: Record, base: Record | None, metric: str, entry: Entry, rule: MetricRule) -> bool:
    """Whether a time is slower than the stored one by more than the loose screen allows.

    Nothing is excused by a slower machine: canaries are noisier than 1 %, and a pair costs minutes.
    """
    before = None if base is None else base.metrics.get(metric)
    if base is None or not before:
        return True
    ratio = now.metrics[metric] / before
    ratio = ratio if rule.better == "lower" else 1.0 / ratio if ratio > 0 else float("inf")
    wanted = interest(entry, rule, before)
    return not ratio <= 1.0 + (LOOSE if rule.smallest_effect is None else wanted.margin)


def _without_benchmark(run: Session, policy: Policy) -> Iterator[Finding]:
    """The gate demands the whole policy: an entry that nothing matches lost its benchmark."""
    for entry in policy.entries:
        if not any(matches(entry.name, record.id) for record in run.records):
            text = "is in benchmarks/policy.toml, and no benchmark of that name was run"
            yield Finding(entry.name, "", Status.MISSING, detail=text)
