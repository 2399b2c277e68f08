"""Does the head learn as well: what six seeds decide, what asks for more, and how often it errs."""

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.harness.blocks import Block, Request
from benchmarks.harness.compare import Comparison, judge_blocks
from benchmarks.harness.noninferior import LOSS_BUDGET, PASS_LEVELS, Seeds, judge_seeds, seeds_of
from benchmarks.harness.policy import MetricRule
from benchmarks.harness.record import Record
from benchmarks.harness.rules import Status
from benchmarks.harness.verdict import Code
from tests.harness.pairs_toys import POLICY, block, toy

RULE = MetricRule("accuracy", "lower", relative=0.1)
NUM_SEEDS = 6
METRICS = 3
"""Translation, rotation and recall of the shipped suite."""
SUITES = 300


def learnt(values: tuple[float, ...]) -> Record:
    """Errors of short trainings, one per seed."""
    middle = sorted(values)[len(values) // 2]
    return replace(toy("learn", error_m=middle), samples={"error_m": values})


def blocks_of(*heads: tuple[float, ...], attempt: int = 0) -> list[Block]:
    """Blocks in which the base always reaches errors around 1."""
    base = (1.0, 1.1, 0.9, 1.05, 0.95, 1.0)
    return [
        block(n, [learnt(base)], [learnt(head)], attempt=attempt) for n, head in enumerate(heads)
    ]


def judge(blocks: list[Block]) -> Comparison:
    """By the toy policy."""
    return judge_blocks(blocks, POLICY)


WILD = (1.4, 0.8, 1.3, 0.7, 1.2, 0.9)
SAME = (1.01, 1.09, 0.9, 1.06, 0.94, 1.0)
WORSE = (1.25, 1.35, 1.2, 1.3, 1.15, 1.27)


def test_equal_trainings_pass_with_six_seeds() -> None:
    """Quiet ones need no more."""
    found = judge(blocks_of(SAME))
    assert (found.code, found.request) == (Code.PASS, None)


def test_proven_loss_is_red_with_six_seeds() -> None:
    """A loss of 25 % in each of them, where 10 % are allowed."""
    found = judge(blocks_of(WORSE))
    assert (found.code, found.request) == (Code.REGRESSION, None)
    assert "over 6 seeds; the policy allows 0.1" in found.red[0].finding.detail


def test_what_six_seeds_leave_open_asks_for_six_more() -> None:
    """Undecided with time left is no verdict."""
    found = judge(blocks_of(WILD))
    assert (found.code, found.request) == (Code.INCONCLUSIVE, Request(1, 0, ("learn",)))
    assert found.entries[0].finding.status is Status.SUSPECT
    assert "could have been proven" in found.entries[0].finding.detail


def test_further_seeds_decide() -> None:
    """All seeds count together."""
    found = judge(blocks_of(WILD, *[SAME] * 5))
    assert (found.code, found.request) == (Code.PASS, None)
    assert "seeds" in found.entries[0].finding.detail


def test_after_the_last_look_it_cannot_tell() -> None:
    """And asks for nothing more."""
    blocks = blocks_of(*[WILD] * len(PASS_LEVELS))
    found = judge(blocks)
    assert (found.code, found.request) == (Code.INCONCLUSIVE, None)
    assert found.red[0].finding.status is Status.UNDECIDED


def test_blocks_after_the_decision_change_nothing() -> None:
    """A rule that looked again until it liked what it saw would pass anything."""
    passed = judge(blocks_of(SAME, WORSE, WORSE, WORSE))
    assert passed.code is Code.PASS


def test_repeated_block_has_no_new_seeds() -> None:
    """Its seeds follow from its index."""
    again = blocks_of(WORSE, attempt=1)
    found = seeds_of([*again, *blocks_of(SAME)], "learn", "error_m")
    assert [seeds.head for seeds in found] == [SAME]


@pytest.mark.parametrize(
    ("base", "head", "status"),
    [((1.0, 1.1), (1.0, math.inf), Status.WORSE), ((1.0, math.nan), (1.0, 1.0), Status.UNDECIDED)],
)
def test_training_without_a_number(
    base: tuple[float, ...], head: tuple[float, ...], status: Status
) -> None:
    """In the head it is a loss; in the base it leaves nothing to compare with."""
    assert judge_seeds("learn", "error_m", RULE, [Seeds(base, head)], 1).status is status


def outcomes(rng: np.random.Generator, deviation: float, loss: float) -> list[Status]:
    """What each suite of three accuracies ends with, its trainings noisy in both arms.

    The gravest of its metrics; UNDECIDED only after the last look.
    """
    shape = (SUITES, METRICS, len(PASS_LEVELS), NUM_SEEDS)
    base = 1.0 + deviation * rng.standard_normal(shape)
    head = 1.0 + loss + deviation * rng.standard_normal(shape)
    found = []
    for one, other in zip(base, head, strict=True):
        statuses = {
            judge_seeds(
                "learn", "error_m", RULE,
                [Seeds(tuple(b), tuple(h)) for b, h in zip(x, y, strict=True)], METRICS,
            ).status
            for x, y in zip(one, other, strict=True)
        }  # fmt: skip
        order = (Status.WORSE, Status.UNDECIDED, Status.OK, Status.BETTER)
        found.append(next(status for status in order if status in statuses))
    return found


def share(found: list[Status], status: Status) -> float:
    """How many of the suites ended so."""
    return found.count(status) / len(found)


def test_unchanged_suite_is_rarely_undecided_and_hardly_ever_red() -> None:
    """Each training off by 10 %, as much as the margin, independently in both arms."""
    found = outcomes(np.random.default_rng(3), 0.1, 0.0)
    assert share(found, Status.UNDECIDED) < 0.05
    assert share(found, Status.WORSE) < 0.01


def test_loss_of_twice_the_margin_is_found() -> None:
    """At the same noise."""
    found = outcomes(np.random.default_rng(4), 0.1, 0.2)
    assert share(found, Status.WORSE) > 0.99


def test_loss_of_the_margin_passes_at_most_one_time_in_twenty() -> None:
    """The 5 % are spent over all looks together, metric by metric."""
    rng = np.random.default_rng(5)
    passed = 0
    for _ in range(1000):
        losses = 1.1 + 0.1 * rng.standard_normal((len(PASS_LEVELS), NUM_SEEDS))
        seeds = [Seeds((1.0,) * NUM_SEEDS, tuple(head)) for head in losses]
        passed += judge_seeds("learn", "error_m", RULE, seeds, 1).status in (
            Status.OK, Status.BETTER,
        )  # fmt: skip
    assert passed / 1000 < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1000)


def test_false_alarms_keep_to_their_budget() -> None:
    """Red for an unchanged suite, at any noise: here where nothing is ever excluded early."""
    found = outcomes(np.random.default_rng(6), 0.5, 0.0)
    assert share(found, Status.WORSE) <= LOSS_BUDGET + 2 * math.sqrt(LOSS_BUDGET / SUITES)
