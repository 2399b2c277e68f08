"""The verdict over pairs: a pure function of blocks and policy; it also says what to measure next.

Families as against a stored baseline, but from both arms of one session: coverage, right answers,
accuracy over the same seeds, memory and counters, and times by the paired rule.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.harness.blocks import TRIES, Block, Pairs, Request, pairs_of
from benchmarks.harness.evidence import BothArms, counters, gap_in, problem
from benchmarks.harness.interest import interest
from benchmarks.harness.known import Known, bare
from benchmarks.harness.noninferior import judge_seeds, seeds_of
from benchmarks.harness.pairs import PairedVerdict, State, decide_pairs
from benchmarks.harness.policy import Entry, MetricRule, Policy
from benchmarks.harness.rules import Case, Finding, Status, judge_metric
from benchmarks.harness.startup import start_findings
from benchmarks.harness.statistics import median
from benchmarks.harness.verdict import (
    CODES,
    MAX_INVALID,
    Code,
    advised,
    codes_of,
    gravest,
    severity,
)

MIN_LOST, MAX_LOST = 3, 6
"""Lost pairs before the machine is called unfit, and before one benchmark is given up."""
GIVEN_UP = "given up early: even all blocks would hardly decide; they find slowdowns from"
UNSTEADY = "unsteady (still changing by over 0.5 % when warm-up was cut off)"
NOISY_BLOCKS = 3
"""Blocks before memory that does not repeat to the byte may be red."""
STATUS = {
    State.MORE: Status.SUSPECT,
    State.PASS: Status.OK,
    State.FAIL: Status.WORSE,
    State.INCONCLUSIVE: Status.UNDECIDED,
}


@dataclass(frozen=True)
class Compared:
    """One finding, and for a time its pairs."""

    finding: Finding
    pairs: PairedVerdict | None = None
    node: str = ""
    """pytest's node id of the benchmark, where one was collected."""


@dataclass(frozen=True)
class Comparison:
    """The verdict so far, what it rests on, and what would decide more."""

    code: Code
    entries: tuple[Compared, ...]
    request: Request | None
    """The next block; None when everything is decided."""
    num_gated: int
    """Gated times, which share the error budget."""

    @property
    def red(self) -> tuple[Compared, ...]:
        """What decided against a pass, the most severe first."""
        bad = [entry for entry in self.entries if entry.finding.status in CODES]
        return tuple(sorted(bad, key=lambda entry: severity(entry.finding)))


def judge_blocks(
    blocks: Sequence[Block],
    policy: Policy,
    *,
    screened: Collection[str] | None = None,
    num_gated: int | None = None,
    coarse: Collection[str] = (),
    known: Known | None = None,
) -> Comparison:
    """Judge what was measured so far, whatever order the blocks come in.

    `screened` are ids that a stored baseline chose: their pairs have no first stage; `num_gated` is
    then the number of gated times of the whole suite. Without them it is counted here. `coarse` are
    times (`id metric`) that are known to be too noisy to tell: red only where proven slower. Only
    what is not `known` to the base may be new; without it nothing may.
    """
    blocks = sorted(blocks, key=lambda block: (block.index, block.attempt))
    if not blocks:
        return Comparison(Code.INCONCLUSIVE, (), Request(0, 0, None), 0)
    evidence = _gather(blocks, policy, known)
    counted = num_gated if num_gated is not None else _count_gated(evidence, policy)
    judge = _Judge(
        blocks, policy, max(1, counted), max(1, _count_seeded(evidence, policy)),
        frozenset(screened or ()), frozenset(coarse),
    )  # fmt: skip
    entries = [*_duplicates(blocks), *_lost(evidence, known)]
    for name in sorted(evidence):
        node = next((r.node for r in (*evidence[name].head, *evidence[name].base)), "")
        entries += (replace(one, node=node) for one in judge.benchmark(evidence[name]))
    measured = any(found.measured for found in evidence.values())
    found = [e.finding for e in entries if e.finding.status is not Status.NOT_GATED]
    if not measured or not any(finding.metric for finding in found):
        what = "gated metric" if measured else "benchmark"
        text = f"no {what} was measured in both arms: nothing was compared"
        entries.append(Compared(Finding("", "", Status.MISSING, detail=text)))
    entries += map(Compared, start_findings(blocks, policy))
    codes = codes_of(entry.finding for entry in entries)
    codes |= {Code.ENVIRONMENT} if judge.unfit else set()
    return Comparison(gravest(codes), tuple(entries), judge.request(), counted)


def _gather(blocks: Sequence[Block], policy: Policy, known: Known | None) -> dict[str, BothArms]:
    records = [r for block in blocks for r in (*block.base.records, *block.head.records)]
    # The base may lack a name that new benchmarks import; what it knows of them is missed by name.
    names = {r.id for r in records if not r.is_file}
    names |= {r.id for block in blocks for r in block.head.records}
    names |= {name for block in blocks for name in block.ids or ()}
    found = {}
    for name in names:
        base, head = (
            tuple(r for b in blocks if (r := b.session(side).by_id().get(name)) is not None)
            for side in ("base", "head")
        )
        device = blocks[0].head.machine.device
        found[name] = BothArms(name, policy.entry(name), base, head, device, known)
    return found


def _count_gated(evidence: dict[str, BothArms], policy: Policy) -> int:
    return sum(
        rule.family == "time"
        for found in evidence.values()
        if found.measured and found.entry is not None and found.entry.tier == "gate"
        for _, rule in found.metrics(policy)
    )


def _count_seeded(evidence: dict[str, BothArms], policy: Policy) -> int:
    return sum(
        any(metric in record.samples for record in found.head)
        for found in evidence.values()
        if found.measured and found.entry is not None and found.entry.tier == "gate"
        for metric, rule in found.metrics(policy)
        if rule.family == "accuracy"
    )


def _duplicates(blocks: Sequence[Block]) -> Iterator[Compared]:
    doubled = {
        name
        for block in blocks for session in (block.base, block.head)
        for name, count in Counter(record.id for record in session.records).items() if count > 1
    }  # fmt: skip
    for name in sorted(doubled):
        text = "several benchmarks of one process share this id"
        yield Compared(Finding(name, "", Status.DUPLICATE, detail=text))


def _lost(evidence: Mapping[str, BothArms], known: Known | None) -> Iterator[Compared]:
    """What the head has taken out of the suite that both arms run: benchmarks, or values of them.

    Where a file of the head crashed, which is red by itself, nobody knows what else it holds.
    """
    if known is None:
        return
    ran = {bare(name) for name in evidence}
    lost = set(known.lost - ran)
    crashed = any(record.is_file for found in evidence.values() for record in found.head)
    lost |= {
        name for name in known.listed - evidence.keys()
        if bare(name) not in lost and (bare(name) in ran or not crashed)
    }  # fmt: skip
    for name in sorted(lost):
        text = "is in the base's suite; the head's suite, which both arms run, has lost it"
        yield Compared(Finding(name, "", Status.MISSING, detail=text))


class _Judge:
    """Judges benchmark after benchmark, and gathers what is still to be measured."""

    def __init__(
        self,
        blocks: Sequence[Block],
        policy: Policy,
        num_gated: int,
        num_accuracies: int,
        screened: frozenset[str],
        coarse: frozenset[str],
    ) -> None:
        self._blocks, self._policy = blocks, policy
        self._num_gated, self._num_accuracies = num_gated, num_accuracies
        self._screened, self._coarse = screened, coarse
        self._pending: set[str] = set()
        self._repeat: set[str] = set()
        self._num_pairs = self._num_lost = 0

    @property
    def unfit(self) -> bool:
        """Whether too many pairs stayed invalid for this machine to say anything."""
        return self._num_lost >= MIN_LOST and self._num_lost > MAX_INVALID * self._num_pairs

    def request(self) -> Request | None:
        """The next block: the newest again where it was invalid, else a fresh one."""
        newest = self._blocks[-1]
        if self._repeat:
            return Request(newest.index, newest.attempt + 1, tuple(sorted(self._repeat)))
        if self._pending and not self.unfit:
            return Request(newest.index + 1, 0, tuple(sorted(self._pending)))
        return None

    def benchmark(self, found: BothArms) -> Iterator[Compared]:
        """Every finding about one benchmark."""
        reason = problem(found)
        if reason is not None:
            yield Compared(reason)
            return
        if found.entry is None:
            text = "has no entry in benchmarks/policy.toml"
            yield Compared(Finding(found.name, "", Status.UNLISTED, detail=text))
            return
        advisory = found.entry.tier == "advisory"
        compared = [*map(Compared, counters(found)), *self._metrics(found, found.entry)]
        for one in compared:
            yield replace(one, finding=advised(one.finding)) if advisory else one

    def _metrics(self, found: BothArms, entry: Entry) -> Iterator[Compared]:
        for metric, rule in found.metrics(self._policy):
            gap = gap_in(found, metric, rule)
            if gap is not None:
                yield Compared(gap)
            elif rule.family == "time":
                yield self._time(found, entry, metric, rule)
            elif rule.family == "memory":
                yield Compared(self._memory(found, metric, rule))
            else:
                yield Compared(self._accuracy(found, entry, metric, rule))

    def _time(self, found: BothArms, entry: Entry, metric: str, rule: MetricRule) -> Compared:
        pairs = pairs_of(self._blocks, found.name, metric, rule.better)
        self._num_pairs += len(pairs.log_ratios) + pairs.num_lost
        self._num_lost += pairs.num_lost
        coarse = f"{found.name} {metric}" in self._coarse
        wanted = interest(entry, rule, _middle(pairs.base) or 0.0)
        verdict = decide_pairs(
            pairs.log_ratios, smallest_effect=wanted.effect, num_gated=self._num_gated,
            screened=found.name in self._screened, margin=wanted.margin, coarse=coarse,
        )  # fmt: skip
        status = STATUS[verdict.state]
        if verdict.state is State.PASS and verdict.faster:
            status = Status.BETTER
        elif verdict.state is State.MORE and pairs.num_lost >= MAX_LOST:
            status = Status.INVALID
        elif verdict.state is State.MORE and entry.tier == "gate":
            (self._repeat if pairs.repeat else self._pending).add(found.name)
        finding = Finding(
            found.name, metric, status, _middle(pairs.base), _middle(pairs.head),
            _disturbed(pairs, found, verdict), "time",
        )  # fmt: skip
        if coarse and status is not Status.WORSE:
            finding = advised(finding)
        return Compared(finding, verdict)

    def _accuracy(self, found: BothArms, entry: Entry, metric: str, rule: MetricRule) -> Finding:
        """By the same seeds in both arms; without seeds, by the rule against a stored number."""
        seeds = seeds_of(self._blocks, found.name, metric)
        if not seeds:
            case = Case(metric, rule, found.base[0], found.head[0], (), same_runtime=True)
            judged = judge_metric(case)
            if judged is None:
                raise RuntimeError(f"{found.name}: {metric} is in neither arm")
            return judged
        finding = judge_seeds(found.name, metric, rule, seeds, self._num_accuracies)
        if finding.status is Status.SUSPECT and entry.tier == "gate":
            self._pending.add(found.name)
        return finding

    def _memory(self, found: BothArms, metric: str, rule: MetricRule) -> Finding:
        """The maximum over processes; where that is noisy, the median must say the same."""
        before, after = found.values("base", metric), found.values("head", metric)
        highest = max(before), max(after)
        worse = rule.loss(*highest) > rule.allowed(highest[0])
        if worse and rule.confirm is not None:
            middle = median(before), median(after)
            worse = rule.loss(*middle) > rule.allowed(middle[0], rule.confirm)
            if worse and len(before) < NOISY_BLOCKS:
                self._pending.add(found.name)
        status = Status.WORSE if worse else Status.OK
        if rule.loss(*highest) < -rule.allowed(highest[0]):
            status = Status.BETTER
        text = f"the largest of {len(after)} processes; {_allowed(rule, highest[0])}"
        return Finding(found.name, metric, status, *highest, text, rule.family)


def _allowed(rule: MetricRule, before: float) -> str:
    return f"the policy allows {rule.allowed(before) / before:.1%} more" if before else ""


def _middle(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _disturbed(pairs: Pairs, found: BothArms, verdict: PairedVerdict) -> str:
    """What a reader must know about the times: given up, unsteady, invalid, lost."""
    records = (*found.base, *found.head)
    unsteady = sum(record.warm_up == "unsteady" for record in records)
    told = [] if verdict.stopped is None else [f"{GIVEN_UP} {verdict.stopped:.1%}"]
    told += [f"{UNSTEADY} in {unsteady} of {len(records)} processes"] if unsteady else []
    if pairs.num_lost:
        told.append(f"{pairs.num_lost} blocks stayed invalid after {TRIES} tries")
    if pairs.reasons:
        told.append(f"invalid, not slow: {'; '.join(pairs.reasons[:3])}")
    return "; ".join(told)
