"""The verdict over whole runs: coverage, right answers, exit codes; nothing slips through."""

import dataclasses
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.counting import NOT_COUNTED
from benchmarks.harness.machine import Machine
from benchmarks.harness.policy import Entry, MetricRule, Policy
from benchmarks.harness.record import Outcome, Record, Session
from benchmarks.harness.rules import Status
from benchmarks.harness.verdict import Code, Verdict, judge

MACHINE = Machine("cpu", "Toy CPU", 2, 2**33, "none", {"python": "3.11"})
POLICY = Policy(
    {
        "time_s": MetricRule("time", "lower", relative=0.25, confirm=0.15),
        "error_m": MetricRule("accuracy", "lower", relative=0.1),
    },
    (
        Entry("advice*", "nobody", ("time_s",), tier="advisory"),
        Entry("step*", "somebody", ("time_s", "error_m")),
    ),
)


def step(name: str = "step", *, outcome: Outcome = "passed", **metrics: float) -> Record:
    """A benchmark of one second."""
    return Record(
        name, f"benchmarks/bench_toy.py::{name}", outcome, metrics={"time_s": 1.0, **metrics}
    )


def session(*records: Record) -> Session:
    """A run on the toy machine."""
    return Session(MACHINE, "room", "abc123", records)


def baseline(*records: Record) -> Baseline:
    """What the toy machine has stored."""
    by_id = {record.id: record for record in records}
    return Baseline(MACHINE, "room", by_id, dict.fromkeys(by_id, "abc123, 2026-01-01"))


def verdict(now: list[Record], before: list[Record], *again: list[Record]) -> Verdict:
    """Judge a run against a baseline, with any number of fresh processes."""
    fresh = [session(*records) for records in again]
    return judge(session(*now), baseline(*before), POLICY, remeasured=fresh)


def statuses(found: Verdict) -> dict[str, Status]:
    """The status of each finding by `id metric`."""
    return {f"{f.id} {f.metric}".strip(): f.status for f in found.findings}


def test_same_numbers_pass() -> None:
    """An unchanged run is green."""
    assert verdict([step()], [step()]).code is Code.PASS


def test_missing_benchmark_is_coverage() -> None:
    """What this machine's baseline has and the run has not is red."""
    found = verdict([step("step_a")], [step("step_a"), step("step_b")])
    assert found.code is Code.COVERAGE
    assert statuses(found)["step_b"] is Status.MISSING


def test_renamed_benchmark_is_coverage() -> None:
    """A new name does not hide that the old one is gone."""
    assert verdict([step("step_new")], [step("step_old")]).code is Code.COVERAGE


def test_benchmark_outside_the_selection_is_not_missed() -> None:
    """With -k only what was collected is expected."""
    stored = baseline(step("step_a"), step("step_b"))
    found = judge(session(step("step_a")), stored, POLICY, expected=["step_a"])
    assert found.code is Code.PASS


def test_new_benchmark_without_a_policy_entry_is_coverage() -> None:
    """Nobody would notice what it does."""
    found = verdict([step(), step("orphan")], [step()])
    assert found.code is Code.COVERAGE
    assert statuses(found)["orphan"] is Status.UNLISTED


def test_new_benchmark_with_a_policy_entry_passes() -> None:
    """It waits for its first stored number."""
    found = verdict([step(), step("step_new")], [step()])
    assert (found.code, statuses(found)["step_new time_s"]) == (Code.PASS, Status.NEW)


def test_wrong_answer_is_a_regression() -> None:
    """However fast it was."""
    found = verdict([step(outcome="wrong", time_s=0.1)], [step()])
    assert (found.code, statuses(found)["step"]) == (Code.REGRESSION, Status.WRONG)


def test_crash_is_coverage() -> None:
    """A benchmark that raised has no number."""
    assert verdict([step(outcome="errored")], [step()]).code is Code.COVERAGE


def test_wrong_answer_in_a_fresh_process_counts() -> None:
    """A re-measurement that fails is no excuse for the first one."""
    slow = step(time_s=2.0)
    assert verdict([slow], [step()], [step(outcome="wrong")]).code is Code.REGRESSION


@pytest.mark.parametrize(("stored", "code"), [(True, Code.COVERAGE), (False, Code.PASS)])
def test_skip_is_missing_only_where_the_baseline_has_it(stored: bool, code: Code) -> None:
    """A GPU case without a GPU is fine; one that this machine measured before is not."""
    before = [step(), step("step_gpu")] if stored else [step()]
    assert verdict([step(), step("step_gpu", outcome="skipped")], before).code is code


def test_slowdown_waits_for_three_fresh_processes() -> None:
    """It is pending, then red, and not before all three agree."""
    slow = [step(time_s=1.3)]
    for fresh in range(3):
        found = verdict(slow, [step()], *[slow] * fresh)
        assert found.pending == ("step",)
    found = verdict(slow, [step()], slow, slow, slow)
    assert (found.code, found.pending) == (Code.REGRESSION, ())


def test_slowdown_that_does_not_repeat_is_not_proven() -> None:
    """One fresh process at the old speed ends it, green and named."""
    slow = [step(time_s=1.3)]
    found = verdict(slow, [step()], slow, [step(time_s=1.05)])
    assert (found.code, found.pending) == (Code.PASS, ())
    assert statuses(found)["step time_s"] is Status.NOT_PROVEN


def test_lost_accuracy_is_red_at_once() -> None:
    """Fixed seeds repeat themselves."""
    found = verdict([step(error_m=0.12)], [step(error_m=0.1)])
    assert (found.code, statuses(found)["step error_m"]) == (Code.REGRESSION, Status.WORSE)


def test_accuracy_that_no_entry_gates_is_coverage() -> None:
    """An accuracy is measured to be gated."""
    now = dataclasses.replace(step(recall=0.5), intervals={"recall": 0.1})
    assert verdict([now], [step()]).code is Code.COVERAGE


def test_vanished_metric_is_coverage() -> None:
    """Not measuring it any more is no way to pass."""
    assert verdict([step()], [step(error_m=0.1)]).code is Code.COVERAGE


def test_changed_counter_is_a_regression_either_way() -> None:
    """Exact counters have no margin."""
    before = dataclasses.replace(step(), counters={"syncs": 3})
    for count in (2, 4):
        now = dataclasses.replace(step(), counters={"syncs": count})
        assert verdict([now], [before]).code is Code.REGRESSION


def test_vanished_counter_is_coverage() -> None:
    """A counter that is not counted any more guards nothing."""
    before = dataclasses.replace(step(), counters={"syncs": 3})
    assert verdict([step()], [before]).code is Code.COVERAGE


def test_vanished_counter_says_why() -> None:
    """The reason is a note of the run."""
    before = dataclasses.replace(step(), counters={"syncs": 3})
    now = dataclasses.replace(step(), notes=("syncs: 3 in one call and 4 in the next",))
    found = verdict([now], [before])
    assert found.code is Code.COVERAGE
    assert found.red[0].detail == "syncs: 3 in one call and 4 in the next"


def test_counts_that_the_baseline_lacks_are_named() -> None:
    """It was recorded where counting failed: the run's counts are compared with nothing."""
    before = dataclasses.replace(step(), notes=(f"{NOT_COUNTED}: no CUPTI",))
    now = dataclasses.replace(step(), counters={"launches": 3, "graphs": 1})
    found = verdict([now], [before])
    assert (found.code, statuses(found)["step cuda_calls"]) == (Code.PASS, Status.NOT_GATED)
    (detail,) = [f.detail for f in found.findings if f.metric == "cuda_calls"]
    assert detail.endswith("not counted: no CUPTI: nothing to compare launches with")
    assert "step cuda_calls" not in statuses(verdict([now], [now]))


def test_changed_declaration_is_coverage() -> None:
    """The stored number is of another thing: cold cache against warm."""
    cold = dataclasses.replace(step(), cache="cold")
    found = verdict([cold], [step()])
    assert (found.code, statuses(found)["step time_s"]) == (Code.COVERAGE, Status.STALE)


def test_advisory_benchmark_never_turns_red_for_a_loss() -> None:
    """It is shown, and its answer still counts."""
    slow = step("advice", time_s=9.0)
    assert verdict([slow], [step("advice")]).code is Code.PASS
    wrong = step("advice", outcome="wrong")
    assert verdict([wrong], [step("advice")]).code is Code.REGRESSION


def test_duplicated_ids_are_usage() -> None:
    """One of two numbers would be dropped in silence."""
    assert verdict([step(), step()], [step()]).code is Code.USAGE


def test_nothing_measured_is_coverage() -> None:
    """An empty run is not a pass."""
    assert judge(session(), None, POLICY).code is Code.COVERAGE


def test_only_skipped_is_coverage() -> None:
    """Where nothing is stored that could be missed, nothing but a measured number is a pass."""
    skipped = step(outcome="skipped")
    assert judge(session(skipped), None, POLICY).code is Code.COVERAGE
    assert judge(session(skipped, step("step_other", time_s=1.0)), None, POLICY).code is Code.PASS


def test_required_baseline_that_is_absent_is_environment() -> None:
    """In CI a machine without a baseline proves nothing."""
    assert judge(session(step()), None, POLICY, baseline_required=True).code is Code.ENVIRONMENT
    assert judge(session(step()), None, POLICY).code is Code.PASS


def test_invalid_times_are_environment_when_there_are_many() -> None:
    """Throttled is not slow: after two repetitions the machine is to blame."""
    names = [f"step_{n}" for n in range(10)]
    hot = {n: dataclasses.replace(step(n), invalid=("hw_thermal",)) for n in names}
    few = [hot[n] if n == "step_0" else step(n) for n in names]
    fine = [step(n) for n in names]
    assert verdict(few, fine).pending == ("step_0",)
    assert verdict(few, fine, few, few).code is Code.INCONCLUSIVE
    all_hot = list(hot.values())
    assert verdict(all_hot, fine, all_hot, all_hot).code is Code.ENVIRONMENT


def test_severity_puts_the_gravest_code_first() -> None:
    """4, 11, 1, 12, 10."""
    wrong, missing = step(outcome="wrong"), step("step_b")
    assert verdict([wrong], [step(), missing]).code is Code.REGRESSION
    assert verdict([wrong, wrong], [step(), missing]).code is Code.USAGE


NUMBERS = st.one_of(st.floats(), st.just(0.0), st.floats(1e-6, 1e3))
RECORDS = st.lists(
    st.builds(
        step,
        st.sampled_from(["step", "step[n=1]", "advice", "orphan"]),
        outcome=st.sampled_from(["passed", "wrong", "errored", "skipped"]),
        time_s=NUMBERS,
        error_m=NUMBERS,
    ),
    max_size=5,
)
KNOWN = st.sampled_from(["step", "step[n=1]", "advice"])
POSSIBLE = st.floats(1e-6, 1e3)
STORED = st.lists(st.builds(step, KNOWN, time_s=POSSIBLE, error_m=POSSIBLE), max_size=3)


@given(RECORDS, STORED, st.integers())
def test_order_of_records_does_not_matter(
    now: list[Record], before: list[Record], seed: int
) -> None:
    """The same records in any order give the same verdict."""
    unique = list({record.id: record for record in now}.values())
    shuffled = random.Random(seed).sample(unique, len(unique))
    assert repr(verdict(unique, before)) == repr(verdict(shuffled, before))


@given(RECORDS, STORED, st.sampled_from([2.0**-10, 64.0]))
def test_unit_of_time_does_not_matter(
    now: list[Record], before: list[Record], factor: float
) -> None:
    """About milliseconds or minutes instead of seconds: the same code."""

    def scaled(records: list[Record]) -> list[Record]:
        times = [{**r.metrics, "time_s": factor * r.metrics["time_s"]} for r in records]
        return [dataclasses.replace(r, metrics=m) for r, m in zip(records, times, strict=True)]

    finite = [r for r in now if 1e-6 < r.metrics["time_s"] < 1e6]
    assert verdict(finite, before).code is verdict(scaled(finite), scaled(before)).code


@given(st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0]), st.booleans())
def test_impossible_time_never_passes(value: float, known: bool) -> None:
    """Whether or not there is a baseline to compare with."""
    stored = baseline(step()) if known else None
    assert judge(session(step(time_s=value)), stored, POLICY).code is Code.REGRESSION


@given(RECORDS, STORED)
def test_what_is_not_fine_never_passes(now: list[Record], before: list[Record]) -> None:
    """A pass means: everything there, unique, right and possible."""
    found = verdict(now, before)
    names = [record.id for record in now]
    bad = (
        not {r.id for r in before} <= {r.id for r in now if r.outcome != "skipped"}
        or len(set(names)) < len(names)
        or "orphan" in {r.id for r in now if r.outcome == "passed"}
        or any(r.outcome in ("wrong", "errored") for r in now)
        or not names
    )
    assert not (bad and found.code is Code.PASS)
