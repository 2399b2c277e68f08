"""From which slowdown on a pair is interested in a time, and below which it proves nothing."""

from dataclasses import dataclass

from benchmarks.harness.pairs import MARGIN
from benchmarks.harness.policy import Entry, MetricRule

COARSE_MARGIN = 0.5
"""Of its effect of interest, the share that a coarse time must exceed with certainty to be red."""


@dataclass(frozen=True)
class Interest:
    """Both are shares: 0.03 is 3 % slower."""

    effect: float
    """The smallest slowdown that must not be missed."""
    margin: float = MARGIN
    """Slower by no more than this is never red."""


def interest(entry: Entry, rule: MetricRule, before: float) -> Interest:
    """What a benchmark's entry says, unless the metric itself is coarser.

    Such a metric (the first call: compilers, caches, files) has an effect of interest of its own,
    and what it may lose in seconds whatever the share: doubling 50 ms once per run is no loss.
    `before` is the base's value.
    """
    if rule.smallest_effect is None:
        return Interest(entry.smallest_effect)
    floor = rule.absolute / before if before > 0 else 0.0
    effect = max(entry.smallest_effect, rule.smallest_effect, floor)
    return Interest(effect, COARSE_MARGIN * effect)
