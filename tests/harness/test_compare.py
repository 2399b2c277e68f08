"""The verdict over blocks: every family, every gap, and what must not matter to it."""

import math
import random
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.blocks import Block, Request
from benchmarks.harness.compare import Comparison, judge_blocks
from benchmarks.harness.known import Known
from benchmarks.harness.record import Record, Session
from benchmarks.harness.rules import Status
from benchmarks.harness.verdict import Code
from tests.harness.pairs_toys import POLICY, block, session, timed, toy

SAME = (1.0, 1.002, 0.999, 1.001, 0.998, 1.0015)


KNOWN = Known(frozenset({"stored[n=1]"}), frozenset({"step_fine", "step_known"}))


def judge(blocks: list[Block]) -> Comparison:
    """Judge by the toy policy, against a base that knows two names and has stored one id."""
    return judge_blocks(blocks, POLICY, known=KNOWN)


def statuses(found: Comparison) -> dict[str, Status]:
    """The status of each finding by `id metric`."""
    return {f"{e.finding.id} {e.finding.metric}".strip(): e.finding.status for e in found.entries}


def beside(base: Record, head: Record, *, num: int = 1) -> Comparison:
    """Judge blocks of just these two records, and a time that is fine."""
    other = toy("step_fine", time_s=1.0)
    return judge([block(n, [base, other], [head, other]) for n in range(num)])


def test_nothing_measured_asks_for_everything() -> None:
    """The first block holds whatever the command line selects."""
    found = judge([])
    assert (found.code, found.request) == (Code.INCONCLUSIVE, Request(0, 0, None))


def test_unchanged_suite_passes_after_six_blocks() -> None:
    """And asks for nothing more."""
    assert judge(timed(SAME[:5])).request == Request(5, 0, ("step",))
    found = judge(timed(SAME))
    assert (found.code, found.request, found.num_gated) == (Code.PASS, None, 1)


def test_slower_is_a_regression() -> None:
    """6 % on quiet processes: a suspect, then red by fresh blocks."""
    slow = [1.06 * ratio for ratio in SAME]
    assert judge(timed(slow)).request == Request(6, 0, ("step",))
    found = judge(timed([*slow, *slow, *slow]))
    assert (found.code, found.request) == (Code.REGRESSION, None)
    assert found.red[0].pairs is not None
    assert found.red[0].pairs.effect == pytest.approx(0.06, abs=0.002)


def test_rate_that_falls_is_a_regression() -> None:
    """For a metric where higher is better the sign turns."""
    blocks = [
        block(n, [toy("rate", steps_per_s=100.0)], [toy("rate", steps_per_s=94.0 * ratio)])
        for n, ratio in enumerate([*SAME, *SAME, *SAME])
    ]
    assert judge(blocks).code is Code.REGRESSION
    turned = [replace(one, base=one.head, head=one.base) for one in blocks]
    assert judge(turned).code is Code.PASS


@pytest.mark.parametrize(
    ("base", "head", "code"),
    [
        (10.0, 12.0, Code.PASS),
        (10.0, 20.0, Code.REGRESSION),
        (0.05, 0.1, Code.PASS),
        (0.05, 9.0, Code.REGRESSION),
    ],
)
def test_coarse_time_has_margins_of_its_own(base: float, head: float, code: Code) -> None:
    """Of a first call 20 % more is no loss, nor 50 ms; twice the compilation is one."""
    blocks = [
        block(n, [toy("open", open_s=base)], [toy("open", open_s=head * ratio**20)])
        for n, ratio in enumerate([*SAME, *SAME, *SAME])
    ]
    assert judge(blocks).code is code


def test_decided_benchmarks_are_not_measured_again() -> None:
    """Only what is suspect or open goes on."""
    blocks = [
        block(n, [toy("step_a", time_s=1.0), toy("step_b", time_s=1.0)],
              [toy("step_a", time_s=ratio), toy("step_b", time_s=1.06 * ratio)])
        for n, ratio in enumerate(SAME)
    ]  # fmt: skip
    found = judge(blocks)
    assert found.request == Request(6, 0, ("step_b",))
    assert found.num_gated == 2


def test_screened_benchmarks_have_no_first_stage() -> None:
    """After a stored baseline every block is fresh: red after eight."""
    slow = [1.06 * ratio for ratio in (*SAME, *SAME)][:8]
    found = judge_blocks(timed(slow), POLICY, screened=("step",), num_gated=30)
    assert (found.code, found.num_gated) == (Code.REGRESSION, 30)


@pytest.mark.parametrize(
    ("base", "head", "status", "code"),
    [
        (toy(time_s=1.0), None, Status.MISSING, Code.COVERAGE),
        (None, toy(time_s=1.0), Status.NEW, Code.PASS),
        (None, toy("orphan", time_s=1.0), Status.UNLISTED, Code.COVERAGE),
        (toy(time_s=1.0), toy(outcome="wrong"), Status.WRONG, Code.REGRESSION),
        (toy(time_s=1.0), toy(outcome="errored"), Status.ERRORED, Code.COVERAGE),
        (toy(time_s=1.0), toy(outcome="skipped"), Status.MISSING, Code.COVERAGE),
        (toy(outcome="skipped"), toy(outcome="skipped"), Status.SKIPPED, Code.PASS),
        (toy(outcome="wrong"), toy(time_s=1.0), Status.NEW, Code.PASS),
        (toy(outcome="errored"), toy(time_s=1.0), Status.NEW, Code.PASS),
        (toy(outcome="skipped"), toy(time_s=1.0), Status.NEW, Code.PASS),
        (toy(outcome="errored"), toy(outcome="errored"), Status.ERRORED, Code.COVERAGE),
        (toy(time_s=1.0), toy(time_s=math.nan), Status.IMPOSSIBLE, Code.REGRESSION),
        (toy(time_s=1.0), toy(time_s=0.0), Status.IMPOSSIBLE, Code.REGRESSION),
        (toy(time_s=math.inf), toy(time_s=1.0), Status.ERRORED, Code.COVERAGE),
        (toy(time_s=1.0), toy(), Status.MISSING, Code.COVERAGE),
        (toy(), toy(time_s=1.0), Status.NEW, Code.PASS),
    ],
)
def test_gaps(base: Record | None, head: Record | None, status: Status, code: Code) -> None:
    """What one arm lacks: never a pass for the head's fault, never its fault for the base's."""
    fine = toy("step_fine", time_s=1.0)
    blocks = [
        block(n, [fine, *([base] if base else [])], [fine, *([head] if head else [])])
        for n in range(6)
    ]
    found = judge(blocks)
    name = (head or base or fine).id
    assert [s for n, s in statuses(found).items() if n.split()[0] == name] == [status]
    assert found.code is code


def test_name_that_the_base_lacks_makes_a_new_benchmark() -> None:
    """The same benchmarks run over both packages; the older one lacks what was added."""
    lacking = replace(toy(outcome="errored"), reason="AttributeError: no attribute 'faster'")
    found = beside(lacking, toy(time_s=1.0), num=6)
    assert statuses(found)["step"] is Status.NEW
    assert found.code is Code.PASS


def test_nothing_in_common_is_coverage() -> None:
    """If every benchmark is new, nothing was compared, and that is no pass."""
    assert judge([block(0, [], [toy(time_s=1.0)])]).code is Code.COVERAGE


def test_duplicated_ids_are_usage() -> None:
    """One of two numbers would be dropped in silence."""
    doubled = replace(timed(SAME)[0], head=session(toy(time_s=1.0), toy(time_s=1.0)))
    assert judge([doubled]).code is Code.USAGE


def test_exact_counter_that_changes_is_red() -> None:
    """Even where it falls: a synchronisation that was dropped is a different program."""

    def counting(num: int) -> Record:
        return replace(toy(time_s=1.0), counters={"launches": num})

    assert beside(counting(7), counting(7), num=6).code is Code.PASS
    assert beside(counting(7), counting(6), num=6).code is Code.REGRESSION
    gone = beside(counting(7), toy(time_s=1.0), num=6)
    assert (gone.code, statuses(gone)["step launches"]) == (Code.COVERAGE, Status.MISSING)


def test_memory_is_the_maximum_over_processes() -> None:
    """More than the policy allows is red at once; within it, it is not."""
    assert beside(toy("hold", exact_bytes=1e6), toy("hold", exact_bytes=1.02e6)).code == 1
    found = beside(toy("hold", exact_bytes=1e6), toy("hold", exact_bytes=1.005e6), num=6)
    assert found.code is Code.PASS


def test_noisy_memory_needs_its_median_too() -> None:
    """One process with a high peak accuses nobody; three of three do."""
    fine = toy("step_fine", time_s=1.0)

    def blocks(peaks: list[float]) -> list[Block]:
        return [
            block(n, [toy("hold", noisy_bytes=1e6), fine], [toy("hold", noisy_bytes=peak), fine])
            for n, peak in enumerate(peaks)
        ]

    assert judge(blocks([1e6, 1.5e6, 1e6, 1e6, 1e6, 1e6])).code is Code.PASS
    assert judge(blocks([1.5e6] * 6)).code is Code.REGRESSION


def learn(values: tuple[float, ...]) -> Record:
    """Errors of short trainings, one per seed."""
    middle = sorted(values)[len(values) // 2]
    return replace(toy("learn", error_m=middle), samples={"error_m": values})


BASE_ERRORS = (0.30, 0.35, 0.28, 0.40, 0.33, 0.31)


@pytest.mark.parametrize(
    ("factor", "status", "code"),
    [
        ((1.0,) * 6, Status.OK, Code.PASS),
        ((1.02, 0.98, 1.01, 0.99, 1.03, 1.0), Status.OK, Code.PASS),
        ((1.3, 1.25, 1.35, 1.3, 1.28, 1.31), Status.WORSE, Code.REGRESSION),
        ((1.9, 0.3, 1.8, 0.4, 1.9, 0.5), Status.UNDECIDED, Code.INCONCLUSIVE),
        ((0.7, 0.72, 0.69, 0.71, 0.7, 0.73), Status.BETTER, Code.PASS),
        ((1.0, 1.0, 1.0, 1.0, 1.0, math.inf), Status.WORSE, Code.REGRESSION),
    ],
)
def test_accuracy_is_non_inferiority_over_seeds(
    factor: tuple[float, ...], status: Status, code: Code
) -> None:
    """Green only where the bound excludes a loss above the margin of 10 %."""
    head = tuple(error * f for error, f in zip(BASE_ERRORS, factor, strict=True))
    found = beside(learn(BASE_ERRORS), learn(head), num=6)
    assert (statuses(found)["learn error_m"], found.code) == (status, code)


def test_accuracy_without_seeds_is_judged_by_the_margin() -> None:
    """As against a stored number."""
    base = toy("learn", error_m=0.30)
    assert beside(base, toy("learn", error_m=0.32), num=6).code is Code.PASS
    assert beside(base, toy("learn", error_m=0.34), num=6).code is Code.REGRESSION


def test_advisory_benchmark_is_never_red_for_a_loss() -> None:
    """It is screened, shown, and no part of the error budget."""
    blocks = [*timed([2.0] * 6, "advice"), block(0, [toy(time_s=1.0)], [toy(time_s=1.0)])]
    found = judge(blocks)
    assert statuses(found)["advice time_s"] is Status.NOT_PROVEN
    assert found.num_gated == 1


def test_coarse_time_is_red_only_where_it_is_proven() -> None:
    """Too noisy by calibration: not telling is not red there, a proven slowdown is."""
    noisy = [1.0, 1.4, 0.7, 1.2, 0.8, 1.1] * 5
    assert judge(timed(noisy)).code is Code.INCONCLUSIVE
    assert judge_blocks(timed(noisy), POLICY, coarse=("step time_s",)).code is Code.PASS
    slow = [3.0 * ratio for ratio in noisy]
    assert judge_blocks(timed(slow), POLICY, coarse=("step time_s",)).code is Code.REGRESSION


def hot(one: Record) -> Record:
    """Measured while the GPU was throttled."""
    return replace(one, invalid=("hardware throttle: hw_thermal",))


def test_invalid_pair_is_repeated_twice_then_lost() -> None:
    """Throttled is not slow: the pair is taken again before the next one."""
    blocks = timed(SAME)
    bad = block(6, [hot(toy(time_s=1.0))], [toy(time_s=3.0)])
    opened = [*timed([1.0, 1.2, 0.8, 1.1, 0.9, 1.3])]
    assert judge(blocks).request is None
    for attempt in range(3):
        assert judge([*opened, *(replace(bad, attempt=n) for n in range(attempt))]).request == (
            Request(6, attempt, ("step",))
        )
    tries = [replace(bad, attempt=n) for n in range(3)]
    assert judge([*opened, *tries]).request == Request(7, 0, ("step",))


def test_pair_at_other_clocks_is_invalid() -> None:
    """More than 3 % between the arms says nothing about the code."""

    def at(mhz: float) -> Record:
        return replace(toy(time_s=1.0), facts={"sm_clock_mhz": mhz})

    assert judge([block(0, [at(1900)], [at(1800)])]).request == Request(0, 1, ("step",))
    assert judge([block(0, [at(1900)], [at(1870)])]).request == Request(1, 0, ("step",))


def test_many_lost_pairs_are_environment() -> None:
    """Over a fifth: the machine was not fit, and nothing more is measured."""
    tries = [
        block(n, [hot(toy(time_s=1.0))], [toy(time_s=1.0)], attempt=attempt)
        for n in range(3)
        for attempt in range(3)
    ]
    found = judge(tries)
    assert (found.code, found.request) == (Code.ENVIRONMENT, None)


@pytest.mark.parametrize(("base", "head"), [(1e-200, 1e200), (1e200, 1e-200)])
def test_ratio_that_no_float_holds_is_judged(base: float, head: float) -> None:
    """Absurd numbers of a damaged file end in a verdict, not in an exception."""
    found = judge([block(0, [toy(time_s=base)], [toy(time_s=head)])])
    assert found.request == Request(1, 0, ("step",))
    (entry,) = (entry for entry in found.entries if entry.finding.id == "step")
    assert entry.pairs is not None
    assert entry.pairs.effect == (math.inf if head > base else -1.0)


VALUES = st.one_of(st.floats(), st.floats(0.5, 2.0))
RECORDS = st.lists(
    st.builds(
        toy,
        st.sampled_from(["step", "step_b", "advice", "orphan"]),
        outcome=st.sampled_from(["passed", "passed", "wrong", "errored", "skipped"]),
        time_s=VALUES,
    ),
    max_size=4,
    unique_by=lambda record: record.id,
)
BLOCKS = st.lists(st.tuples(RECORDS, RECORDS), max_size=8).map(
    lambda arms: [block(n, base, head) for n, (base, head) in enumerate(arms)]
)


@given(BLOCKS, st.integers())
def test_order_of_blocks_and_records_does_not_matter(blocks: list[Block], seed: int) -> None:
    """The same evidence in any order gives the same verdict."""
    chance = random.Random(seed)
    mixed = [
        replace(one, base=session(*chance.sample(one.base.records, len(one.base.records))))
        for one in chance.sample(blocks, len(blocks))
    ]
    assert repr(judge(blocks)) == repr(judge(mixed))


@given(BLOCKS)
def test_pass_means_that_all_was_right(blocks: list[Block]) -> None:
    """Never with a wrong answer, a crash of the head, or a number that cannot be."""
    found = judge(blocks)
    heads = [record for one in blocks for record in one.head.records]
    bad = any(record.outcome in ("wrong", "errored") for record in heads)
    if bad or not heads:
        assert found.code is not Code.PASS


@given(st.lists(st.floats(0.8, 1.3), min_size=6, max_size=30), st.sampled_from([2.0**-10, 64.0]))
def test_unit_of_time_does_not_matter(ratios: list[float], factor: float) -> None:
    """About milliseconds or minutes instead of seconds: the same code."""

    def scaled(metrics: Mapping[str, float]) -> dict[str, float]:
        return {name: factor * value for name, value in metrics.items()}

    blocks = timed(ratios)

    def slower(one: Session) -> Session:
        return session(*(replace(r, metrics=scaled(r.metrics)) for r in one.records))

    other = [replace(one, base=slower(one.base), head=slower(one.head)) for one in blocks]
    assert judge(blocks).code is judge(other).code


@given(st.lists(st.floats(0.5, 2.0), max_size=30))
def test_relabelled_arms_are_not_both_slower(ratios: list[float]) -> None:
    """Base and head exchanged: at most one of the two verdicts is a regression."""
    blocks = timed(ratios)
    turned = [replace(one, base=one.head, head=one.base) for one in blocks]
    assert Code.REGRESSION not in (judge(blocks).code, judge(turned).code) or (
        judge(blocks).code is not judge(turned).code
    )
