"""The verdict: a pure function of records, baseline and policy: same records, same verdict.

Families: coverage, right answer, accuracy, memory and counters, gross time. The rule for one noisy
metric is in `rules`; here benchmarks are matched, findings gathered and the exit code chosen.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.counting import CUDA_CALLS, only_now_counted, why_not_counted
from benchmarks.harness.policy import Entry, Policy
from benchmarks.harness.record import Record, Session
from benchmarks.harness.rules import Case, Finding, Status, judge_metric


class Code(IntEnum):
    """Exit codes; pytest's own 2, 3, 5 and 6 keep their meaning."""

    PASS = 0
    REGRESSION = 1
    USAGE = 4
    INCONCLUSIVE = 10
    ENVIRONMENT = 11
    COVERAGE = 12


SEVERITY = (Code.USAGE, Code.ENVIRONMENT, Code.REGRESSION, Code.COVERAGE, Code.INCONCLUSIVE)
CODES = {
    Status.DUPLICATE: Code.USAGE,
    Status.NO_BASELINE: Code.ENVIRONMENT,
    Status.WORSE: Code.REGRESSION,
    Status.WRONG: Code.REGRESSION,
    Status.IMPOSSIBLE: Code.REGRESSION,
    Status.MISSING: Code.COVERAGE,
    Status.ERRORED: Code.COVERAGE,
    Status.UNLISTED: Code.COVERAGE,
    Status.STALE: Code.COVERAGE,
    Status.INVALID: Code.INCONCLUSIVE,
    Status.SUSPECT: Code.INCONCLUSIVE,
    Status.UNDECIDED: Code.INCONCLUSIVE,
}
MAX_INVALID = 0.2
"""With a larger share of invalid times the machine was not fit to measure."""


@dataclass(frozen=True)
class Verdict:
    """The exit code and what it was decided from, sorted by benchmark and metric."""

    code: Code
    findings: tuple[Finding, ...]

    @property
    def pending(self) -> tuple[str, ...]:
        """Benchmarks that must be measured again, each in a fresh process, before this is final."""
        suspects = {finding.id for finding in self.findings if finding.status is Status.SUSPECT}
        return tuple(sorted(suspects))

    @property
    def red(self) -> tuple[Finding, ...]:
        """The findings that decided against a pass, the most severe first."""
        return tuple(red(self.findings))


def red(findings: Iterable[Finding]) -> list[Finding]:
    """What decided against a pass, the most severe first."""
    return sorted((finding for finding in findings if finding.status in CODES), key=severity)


def severity(finding: Finding) -> int:
    """The place of a red finding among others: 0 is the most severe."""
    return SEVERITY.index(CODES[finding.status])


def codes_of(findings: Iterable[Finding]) -> set[Code]:
    """The exit codes that findings ask for."""
    return {CODES[finding.status] for finding in findings if finding.status in CODES}


def gravest(codes: Collection[int]) -> Code:
    """The one exit code of several; PASS without any."""
    return next((code for code in SEVERITY if code in codes), Code.PASS)


def judge(
    run: Session,
    baseline: Baseline | None,
    policy: Policy,
    *,
    expected: Collection[str] | None = None,
    remeasured: Sequence[Session] = (),
    baseline_required: bool = False,
) -> Verdict:
    """Judge a run against this machine's baseline.

    `expected` are the baseline's ids that this run was asked for (all of them without it);
    `remeasured` are sessions of fresh processes over what was `pending`, in the order taken.
    """
    stored = {} if baseline is None else baseline.records
    wanted = set(stored if expected is None else expected)
    findings: list[Finding] = []
    if baseline is None and baseline_required:
        text = f"no baseline for {run.machine.key}, and one is required (in CI, and by the gate)"
        findings.append(Finding("", "", Status.NO_BASELINE, detail=text))
    if not wanted and all(record.outcome == "skipped" for record in run.records):
        findings.append(Finding("", "", Status.MISSING, detail="nothing was measured"))
    records = run.by_id()
    for name, count in Counter(record.id for record in run.records).items():
        if count > 1:
            text = f"{count} benchmarks share this id"
            findings.append(Finding(name, "", Status.DUPLICATE, detail=text))
    for name in sorted(wanted | set(records)):
        base = stored.get(name)
        if name not in records:
            text = "is in this machine's baseline and was not run"
            findings.append(Finding(name, "", Status.MISSING, detail=text))
            continue
        again = [s.by_id()[name] for s in remeasured if name in s.by_id()]
        findings += _judge_benchmark(records[name], base, again, policy, run, baseline)
    ordered = tuple(sorted(findings, key=lambda f: (f.id, f.metric, f.status.name, f.detail)))
    return Verdict(_code(ordered), ordered)


def _judge_benchmark(
    now: Record,
    base: Record | None,
    again: Sequence[Record],
    policy: Policy,
    run: Session,
    baseline: Baseline | None,
) -> Iterator[Finding]:
    failed = next((record for record in (now, *again) if record.outcome != "passed"), None)
    if failed is not None:
        yield not_passed(failed, base)
        return
    entry = policy.entry(now.id)
    if entry is None:
        text = "has no entry in benchmarks/policy.toml"
        yield Finding(now.id, "", Status.UNLISTED, detail=text)
        return
    yield from _judge_counters(now, base, entry)
    for metric in sorted(set(now.intervals) - set(entry.metrics)):
        text = f"is an accuracy that {entry.name} in benchmarks/policy.toml does not gate"
        yield Finding(now.id, metric, Status.UNLISTED, detail=text)
    noise = None if baseline is None else baseline.noise_of(now.id)
    num_times = max(1, _num_times(run, policy))
    same_runtime = baseline is None or baseline.machine.runtime == run.machine.runtime
    for metric in entry.metrics:
        rule = policy.metrics[metric]
        if rule.device in ("any", run.machine.device):
            case = Case(metric, rule, base, now, tuple(again), same_runtime, noise, num_times)
            finding = judge_metric(case)
            if finding is not None:
                yield advised(finding) if entry.tier == "advisory" else finding


def _num_times(run: Session, policy: Policy) -> int:
    """How many times a run gates."""
    return sum(
        policy.metrics[metric].family == "time" and metric in record.metrics
        for record in run.records
        if (entry := policy.entry(record.id)) is not None
        for metric in entry.metrics
    )


def not_passed(record: Record, base: Record | None) -> Finding:
    """What a record means that did not pass, beside the base's, if the base has one."""
    if record.outcome == "skipped":
        if base is None:
            return Finding(record.id, "", Status.SKIPPED, detail=record.reason)
        text = f"was skipped ({record.reason}); this machine's baseline has it"
        return Finding(record.id, "", Status.MISSING, detail=text)
    status = Status.WRONG if record.outcome == "wrong" else Status.ERRORED
    return Finding(record.id, "", status, detail=record.reason)


def _judge_counters(now: Record, base: Record | None, entry: Entry) -> Iterator[Finding]:
    if base is None:
        return
    text = only_now_counted([base], [now])
    if text:
        yield Finding(now.id, CUDA_CALLS, Status.NOT_GATED, detail=f"in the baseline, {text}")
    for name in sorted(set(base.counters) | set(now.counters)):
        before, after = base.counters.get(name), now.counters.get(name)
        if before is None or before == after:
            continue
        status = Status.MISSING if after is None else Status.WORSE
        text = "an exact counter: any change counts; record a new baseline if it is meant"
        text = (why_not_counted(name, [now]) if after is None else "") or text
        finding = Finding(now.id, name, status, before, after, detail=text)
        yield advised(finding) if entry.tier == "advisory" else finding


def advised(finding: Finding) -> Finding:
    """What is advisory is shown and never red for a loss."""
    if finding.status in (Status.WORSE, Status.SUSPECT, Status.UNDECIDED, Status.INVALID):
        return replace(finding, status=Status.NOT_PROVEN, detail=f"advisory: {finding.detail}")
    return finding


def _code(findings: Sequence[Finding]) -> Code:
    codes = codes_of(findings)
    timed = [finding for finding in findings if finding.family == "time"]
    invalid = [finding for finding in timed if finding.status is Status.INVALID]
    if invalid and len(invalid) > MAX_INVALID * len(timed):
        codes.add(Code.ENVIRONMENT)
    return gravest(codes)
