"""What is new in pairs, and what only looks new: a base that fails what it knows is no pass."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.blocks import Block
from benchmarks.harness.compare import Comparison, judge_blocks
from benchmarks.harness.known import Known
from benchmarks.harness.policy import Entry
from benchmarks.harness.record import Outcome
from benchmarks.harness.rules import Status
from benchmarks.harness.verdict import Code
from tests.harness.pairs_toys import POLICY, block, toy

KNOWN = Known(frozenset({"stored[n=1]"}), frozenset({"step_fine", "step_known"}))


def statuses(found: Comparison) -> dict[str, Status]:
    """The status of each finding by `id metric`."""
    return {f"{e.finding.id} {e.finding.metric}".strip(): e.finding.status for e in found.entries}


def judge(blocks: list[Block]) -> Comparison:
    """Judge by the toy policy, against a base that knows two names and has stored one id."""
    return judge_blocks(blocks, POLICY, known=KNOWN)


@pytest.mark.parametrize("name", ["step_known", "step_known[n=3]", "stored[n=1]"])
@pytest.mark.parametrize("outcome", ["errored", "wrong"])
@pytest.mark.parametrize("reason", ["AttributeError: no 'faster'", "TypeError: f()", "Killed"])
def test_known_benchmark_that_fails_in_the_base_is_no_pass(
    name: str, outcome: Outcome, reason: str
) -> None:
    """Whatever the reason: by the suite's name or by the baseline, the base has it."""
    policy = replace(POLICY, entries=(*POLICY.entries, Entry("stored*", "somebody", ("time_s",))))
    failed = replace(toy(name, outcome=outcome), reason=reason)
    fine = toy("step_fine", time_s=1.0)
    blocks = [block(n, [fine, failed], [fine, toy(name, time_s=1.0)]) for n in range(6)]
    found = judge_blocks(blocks, policy, known=KNOWN)
    assert (found.code, statuses(found)[name]) == (Code.COVERAGE, Status.ERRORED)
    (red,) = found.red
    said = "crashed" if outcome == "errored" else "gave a wrong answer"
    assert f"{said} in the base" in red.finding.detail
    assert reason in red.finding.detail
    assert "a name of its own" in red.finding.detail


def test_known_benchmark_without_a_record_of_the_base_is_no_pass() -> None:
    """Its file could not even be collected there."""
    fine = toy("step_fine", time_s=1.0)
    found = judge([block(n, [fine], [fine, toy("step_known", time_s=1.0)]) for n in range(6)])
    assert (found.code, statuses(found)["step_known"]) == (Code.COVERAGE, Status.ERRORED)


def test_stored_benchmark_that_the_base_skips_is_no_pass() -> None:
    """A skip that depends on the package would hide it from the comparison."""
    policy = replace(POLICY, entries=(*POLICY.entries, Entry("stored*", "somebody", ("time_s",))))
    fine, skipped = toy("step_fine", time_s=1.0), toy("stored[n=1]", outcome="skipped")
    blocks = [block(n, [fine, skipped], [fine, toy("stored[n=1]", time_s=1.0)]) for n in range(6)]
    found = judge_blocks(blocks, policy, known=KNOWN)
    assert (found.code, statuses(found)["stored[n=1]"]) == (Code.COVERAGE, Status.ERRORED)


def test_metric_that_the_base_arm_alone_lost_is_no_pass() -> None:
    """Its baseline has it: a benchmark edited so that only the head gives it compares nothing."""
    blocks = [block(n, [toy("step_a")], [toy("step_a", time_s=1.0)]) for n in range(6)]
    known = Known(frozenset({"step_a"}), metrics=frozenset({"step_a time_s"}))
    found = judge_blocks(blocks, POLICY, known=known)
    assert (found.code, statuses(found)["step_a time_s"]) == (Code.COVERAGE, Status.ERRORED)
    assert judge_blocks(blocks, POLICY).code is Code.COVERAGE


@pytest.mark.parametrize(
    ("listed", "lost"),
    [
        ({"step_known[n=3]", "step_fine"}, set()),
        ({"step_known[n=3]", "step_known[n=4]"}, {"step_known[n=4]"}),
        ({"step_known"}, {"step_known"}),
        ({"step_other[n=1]"}, {"step_other[n=1]"}),
        ({"gone[n=1]", "gone[n=2]"}, {"gone"}),
    ],
)
def test_what_the_base_s_suite_alone_runs_is_missed(listed: set[str], lost: set[str]) -> None:
    """By its whole id: another value of a parameter is another benchmark. A name is told once."""
    records = [toy("step_fine", time_s=1.0), toy("step_known[n=3]", time_s=1.0)]
    gone = frozenset({"gone"} if "gone[n=1]" in listed else set())
    known = replace(KNOWN, lost=gone, listed=frozenset(listed))
    found = judge_blocks([block(n, records, records) for n in range(6)], POLICY, known=known)
    assert found.code is (Code.COVERAGE if lost else Code.PASS)
    assert {e.finding.id for e in found.red} == lost


def test_crashed_file_of_the_head_is_told_once() -> None:
    """Everything in it is missed, and nobody knows what that is."""
    fine = toy("step_fine", time_s=1.0)
    file = replace(toy("bench_b.py", outcome="errored"), node="benchmarks/bench_b.py")
    known = replace(KNOWN, listed=frozenset({"step_fine", "step_known[n=1]", "step_fine[n=2]"}))
    found = judge_blocks([block(n, [fine], [fine, file]) for n in range(6)], POLICY, known=known)
    assert {e.finding.id for e in found.red} == {"bench_b.py", "step_fine[n=2]"}


OUTCOMES: tuple[Outcome, ...] = ("passed", "wrong", "errored", "skipped")
NAMES = ("step_a", "step_b[n=1]", "step_b[n=2]")


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(OUTCOMES), st.booleans())),
    st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)),
)  # fmt: skip
def test_knowing_more_never_makes_a_verdict_greener(
    changed: list[tuple[str, Outcome, bool]], some: set[str], more: set[str]
) -> None:
    """And nobody is known to lack everything: no knowledge is the strictest."""
    fine = toy("step_fine", time_s=1.0)
    base = {name: toy(name, time_s=1.0) for name in NAMES}
    for name, outcome, lost in changed:
        base[name] = toy(name, outcome=outcome, **({} if lost else {"time_s": 1.0}))
    head = [fine, *(toy(name, time_s=1.0) for name in NAMES)]
    blocks = [block(n, [fine, *base.values()], head) for n in range(6)]
    known = [
        Known(frozenset(ids), frozenset({"step_fine"}), frozenset(f"{i} time_s" for i in ids))
        for ids in (some, some | more, {*NAMES})
    ]
    codes = [judge_blocks(blocks, POLICY, known=one).code for one in (*known, None)]
    passed = [code is Code.PASS for code in codes]
    assert passed == sorted(passed, reverse=True)


def test_nobody_who_knows_the_base_makes_nothing_new() -> None:
    """Blocks alone do not say what the base's suite had."""
    lacking = replace(toy(outcome="errored"), reason="AttributeError: no attribute 'faster'")
    fine = toy("step_fine", time_s=1.0)
    blocks = [block(n, [fine, lacking], [fine, toy(time_s=1.0)]) for n in range(6)]
    assert judge_blocks(blocks, POLICY).code is Code.COVERAGE


@pytest.mark.parametrize(
    ("unskipped", "code"), [(frozenset({"step_known"}), Code.COVERAGE), (frozenset(), Code.PASS)]
)
def test_skip_in_both_arms_is_no_pass_where_only_the_head_skips(
    unskipped: frozenset[str], code: Code
) -> None:
    """Both arms run the head's suite, so both skip; the base's own would have measured it."""
    records = [toy("step_fine", time_s=1.0), toy("step_known[n=3]", outcome="skipped")]
    known = replace(KNOWN, unskipped=unskipped)
    found = judge_blocks([block(n, records, records) for n in range(6)], POLICY, known=known)
    assert found.code is code
