"""What two arms say about one benchmark, times aside: there, right, as accurate, same counts."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.harness.blocks import Block, Side
from benchmarks.harness.counting import (
    CUDA_CALLS,
    NOT_COUNTED,
    only_now_counted,
    why_not_counted,
)
from benchmarks.harness.known import Known, bare
from benchmarks.harness.policy import Entry, MetricRule, Policy
from benchmarks.harness.record import Record
from benchmarks.harness.rules import Finding, Status, impossible
from benchmarks.harness.statistics import median
from benchmarks.harness.verdict import not_passed

FAILED = {
    "errored": "crashed in the base arm",
    "wrong": "gave a wrong answer in the base arm",
    "skipped": "was skipped in the base arm",
}
WAY_OUT = "what only the head can run needs a name of its own, in a file of its own"


@dataclass(frozen=True)
class BothArms:
    """What both arms say about one benchmark."""

    name: str
    entry: Entry | None
    base: tuple[Record, ...]
    head: tuple[Record, ...]
    device: str
    known: Known | None = None
    """What the base knows; None: everything, so that nothing may be new."""

    @property
    def measured(self) -> bool:
        """Whether both arms passed wherever they ran it, so that numbers can be compared."""
        records = (*self.base, *self.head)
        both = len(self.base) == len(self.head) > 0
        return both and all(record.outcome == "passed" for record in records)

    def metrics(self, policy: Policy) -> Iterator[tuple[str, MetricRule]]:
        """The metrics that are gated here and that an arm has."""
        for metric in () if self.entry is None else self.entry.metrics:
            rule = policy.metrics[metric]
            known = any(metric in record.metrics for record in (*self.base, *self.head))
            if known and rule.device in ("any", self.device):
                yield metric, rule

    def values(self, side: Side, metric: str) -> list[float]:
        """A metric in every process of an arm."""
        records = self.base if side == "base" else self.head
        return [record.metrics[metric] for record in records if metric in record.metrics]


def problem(found: BothArms) -> Finding | None:
    """Why the two arms cannot be compared; None where they can."""
    if not found.head:
        text = "the head gave no record of it, the base did" if found.base else "gave no record"
        return Finding(found.name, "", Status.MISSING, detail=text)
    bad = next((record for record in found.head if record.outcome != "passed"), None)
    worst = next((record for record in found.base if record.outcome != "passed"), None)
    if bad is not None:
        both_skip = worst is not None and worst.outcome == bad.outcome == "skipped"
        if both_skip and found.known is not None and bare(found.name) in found.known.unskipped:
            text = f"was skipped ({bad.reason}); the base's suite does not skip it so"
            return Finding(found.name, "", Status.MISSING, detail=text)
        return not_passed(bad, None if both_skip or not found.base else found.base[0])
    if not found.base or worst is not None:
        return _without_base(found, worst)
    if len(found.base) != len(found.head):
        text = f"{len(found.base)} processes of the base and {len(found.head)} of the head ran it"
        return Finding(found.name, "", Status.ERRORED, detail=text)
    return None


def _without_base(found: BothArms, worst: Record | None) -> Finding:
    """The head passed and the base did not: new where the base never had it, else no evidence."""
    if worst is None:
        why = "gave no record in the base arm"
    else:
        why = f"{FAILED[worst.outcome]} ({worst.reason})"
    known = found.known
    if worst is not None and worst.outcome == "skipped":
        has_it = known is None or found.name in known.ids
    else:
        has_it = known is None or known.knows(found.name)
    if has_it:
        text = f"{why}, which has it: not compared; {WAY_OUT}"
        return Finding(found.name, "", Status.ERRORED, detail=text)
    status = Status.NEW if found.entry is not None else Status.UNLISTED
    return Finding(found.name, "", status, detail=f"the base does not have it: {why}")


def gap_in(found: BothArms, metric: str, rule: MetricRule) -> Finding | None:
    """A number that is missing or impossible in an arm."""
    before, after = found.values("base", metric), found.values("head", metric)
    if len(after) < len(found.head):
        text = "the base has this metric, the head lacks it in some process"
        return Finding(found.name, metric, Status.MISSING, detail=text, family=rule.family)
    for values, status in ((after, Status.IMPOSSIBLE), (before, Status.ERRORED)):
        reasons = [reason for value in values if (reason := impossible(rule, value))]
        if reasons:
            text = reasons[0] if status is Status.IMPOSSIBLE else f"in the base: {reasons[0]}"
            return Finding(found.name, metric, status, detail=text, family=rule.family)
    stored = found.known is None or f"{found.name} {metric}" in found.known.metrics
    if not before and not stored:
        return Finding(found.name, metric, Status.NEW, None, median(after), family=rule.family)
    if len(before) < len(found.base):
        text = "the base arm lacks this metric in some process, and its baseline may have it"
        return Finding(found.name, metric, Status.ERRORED, detail=text, family=rule.family)
    return None


def counters(found: BothArms) -> Iterator[Finding]:
    """Exact counts: the head may have only values that the base had, too."""
    base, head = found.base, found.head
    for name in sorted({key for record in (*base, *head) for key in record.counters}):
        before = {record.counters[name] for record in base if name in record.counters}
        after = {record.counters[name] for record in head if name in record.counters}
        if not before or (after and after <= before):
            continue
        text = f"an exact counter: {sorted(before)} in the base, {sorted(after) or 'none'} now"
        why = "" if after else why_not_counted(name, head)
        text += f" ({why})" if why else ""
        status = Status.WORSE if after else Status.MISSING
        shown = max(before), max(after) if after else None
        yield Finding(found.name, name, status, *shown, text)
    yield from _only_head_counted(found)


def _only_head_counted(found: BothArms) -> Iterator[Finding]:
    """CUDA calls of the head with nothing beside them: where the base's counting failed, no pass.

    Where the base's have no one number (they depend on the data, or the call is too long to count),
    the head's cannot be compared and are named.
    """
    text = only_now_counted(found.base, found.head)
    if text:
        status = Status.ERRORED if NOT_COUNTED in text else Status.NOT_GATED
        yield Finding(found.name, CUDA_CALLS, status, detail=f"in the base arm, {text}")


def counted_nowhere(block: Block) -> str:
    """How many benchmarks' CUDA calls neither arm could count, and why; empty where none."""
    missed = []
    for record in block.head.records:
        base = block.base.by_id().get(record.id)
        reasons = [] if base is None else [why_not_counted("", [one]) for one in (base, record)]
        missed += reasons[:1] if reasons and all(reasons) else []
    if not missed:
        return ""
    told = f"CUDA calls of {len(missed)} benchmarks were counted in neither arm, so a change of "
    return f"{told}them was not seen: {missed[0]}"
