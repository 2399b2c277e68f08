"""Whether a head learns as well as its base: paired differences of trainings over the same seeds.

Non-inferiority: a pass means that a loss beyond the policy's margin is excluded at one-sided 95 %.
A block trains six seeds in both arms. What they leave open goes on with six more, and the 5 % are
spent over the looks (the levels were found by simulation; a test repeats it). A loss is red only
where it is also proven to be one, by a budget of its own for all metrics of a suite; what neither
excludes nor proves it after the last look cannot be told.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.blocks import Block
from benchmarks.harness.pairs import POWER
from benchmarks.harness.policy import MetricRule
from benchmarks.harness.rules import Finding, Status
from benchmarks.harness.statistics import deviation, median, t_quantile

PASS_LEVELS = (0.005, 0.008, 0.012, 0.016, 0.02, 0.028)
"""Chance per look that a loss of just the margin passes; 5 % in all, as the looks overlap."""
LOSS_BUDGET = 0.005
"""Largest chance that an unchanged suite is red, over all its accuracies and looks."""


@dataclass(frozen=True)
class Seeds:
    """A metric of one block: the same seeds in both arms, in their order."""

    base: tuple[float, ...]
    head: tuple[float, ...]


def seeds_of(blocks: Sequence[Block], name: str, metric: str) -> list[Seeds]:
    """One for each block that has the same number of seeds in both arms; repetitions are left out.

    The seeds of a block follow from its index, so a block that is measured again has no new ones.
    """
    found: dict[int, Seeds] = {}
    for block in sorted(blocks, key=lambda block: (block.index, block.attempt)):
        records = block.base.by_id().get(name), block.head.by_id().get(name)
        base, head = (() if r is None else r.samples.get(metric, ()) for r in records)
        if len(base) == len(head) > 0:
            found.setdefault(block.index, Seeds(tuple(base), tuple(head)))
    return [*found.values()]


@dataclass(frozen=True)
class Bounds:
    """The mean loss over seeds, and where the rule puts its limits."""

    mean: float
    low: float
    """The loss is larger than this, at the level at which a loss is proven."""
    high: float
    """It is smaller than this, at the level of the look."""
    detectable: float
    """The smallest loss that these seeds could have proven, with 80 % power."""


def judge_seeds(
    name: str, metric: str, rule: MetricRule, blocks: Sequence[Seeds], num_metrics: int
) -> Finding:
    """Decide at the first look that can, of at least one; SUSPECT asks for a block of more seeds.

    `num_metrics` accuracies of the suite share the budget for false alarms.
    """
    looks = range(1, 1 + min(len(blocks), len(PASS_LEVELS)))
    found = [_look(name, metric, rule, blocks[:look], num_metrics) for look in looks]
    return next((one for one in found if one.status is not Status.SUSPECT), found[-1])


def _look(
    name: str, metric: str, rule: MetricRule, blocks: Sequence[Seeds], num_metrics: int
) -> Finding:
    base = [value for block in blocks for value in block.base]
    head = [value for block in blocks for value in block.head]
    shown = median(base), median(head)
    allowed = rule.allowed(shown[0])
    told = f"over {len(head)} seeds; the policy allows {allowed:.4g}"
    for values, side, status in ((head, "head", Status.WORSE), (base, "base", Status.UNDECIDED)):
        if not all(map(math.isfinite, values)):
            text = f"a training of the {side} did not end with a number, {told}"
            return Finding(name, metric, status, *shown, text, rule.family)
    loss_level = LOSS_BUDGET / num_metrics / len(PASS_LEVELS)
    losses = [rule.loss(b, h) for b, h in zip(base, head, strict=True)]
    found = bounds(losses, PASS_LEVELS[len(blocks) - 1], loss_level)
    status = _status(found, allowed, last=len(blocks) == len(PASS_LEVELS))
    text = f"worse by {found.mean:.4g}, between {found.low:.4g} and {found.high:.4g}, {told}"
    if status in (Status.SUSPECT, Status.UNDECIDED):
        text += f"; a loss of {found.detectable:.4g} could have been proven"
    return Finding(name, metric, status, *shown, text, rule.family)


def _status(found: Bounds, allowed: float, *, last: bool) -> Status:
    if found.high < allowed:
        return Status.BETTER if found.high < 0 else Status.OK
    if found.low > 0:
        return Status.WORSE
    return Status.UNDECIDED if last else Status.SUSPECT


def bounds(losses: Sequence[float], pass_level: float, loss_level: float) -> Bounds:
    """One-sided bounds of a mean by Student's t; infinitely far apart for a single value."""
    num = len(losses)
    mean = math.fsum(losses) / num
    if num < 2:
        return Bounds(mean, -math.inf, math.inf, math.inf)
    spread = deviation(losses) / math.sqrt(num)
    proof = t_quantile(1.0 - loss_level, num - 1)
    return Bounds(
        mean,
        mean - proof * spread,
        mean + t_quantile(1.0 - pass_level, num - 1) * spread,
        (proof + t_quantile(POWER, num - 1)) * spread,
    )
