"""Small losses that add up: the history of a machine's baselines, and the last release.

Each loss on its own is below what one comparison can prove. Over the accepted baselines of main a
lasting shift shows as a change of level, and against the release there is a budget.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.policy import Policy
from benchmarks.harness.statistics import median

BUDGET = 0.02
"""How much slower than in the last release a benchmark may be."""
PENALTY = 4.0
"""Of one more change of level, times variance and log of the length: few false changes."""
MIN_LENGTH = 2
"""Baselines that a level must last."""
MIN_HISTORY = 6
NORMAL_MAD = 0.6745
"""The median absolute deviation of a standard normal variable."""


@dataclass(frozen=True)
class Change:
    """A lasting change of one time."""

    id: str
    metric: str
    origin: str
    """Of the first baseline on the new level."""
    share: float
    """By how much slower than before; negative: faster."""


@dataclass(frozen=True)
class Overrun:
    """A time that has become slower than in the release by more than the budget."""

    id: str
    metric: str
    share: float
    chance: float
    """Largest share by which two sets of sessions of one code differ on this machine."""

    @property
    def proven(self) -> bool:
        """Whether the loss is more than chance shows."""
        return self.share > self.chance


def change_points(values: Sequence[float]) -> list[int]:
    """Where the level of a series changes: indices of the first value on each new level.

    Optimal partitioning under squared error (Jackson et al., IEEE SPL 2005), with the noise taken
    from the differences of neighbours, which a change of level hardly touches.
    """
    num = len(values)
    if num < MIN_HISTORY:
        return []
    steps = [abs(b - a) for a, b in pairwise(values)]
    sigma = median(steps) / NORMAL_MAD / math.sqrt(2)
    penalty = PENALTY * sigma**2 * math.log(num)
    # One odd baseline is no level: the middle of each three has none of it.
    windows = [min(max(n, 1), num - 2) for n in range(num)]
    values = [median(values[middle - 1 : middle + 2]) for middle in windows]
    best: list[tuple[float, int]] = [(-penalty, 0)]
    for end in range(1, num + 1):
        starts = [s for s in range(end - MIN_LENGTH + 1) if s == 0 or s >= MIN_LENGTH]
        costs = [(best[s][0] + _cost(values[s:end]) + penalty, s) for s in starts]
        best.append(min(costs, default=(math.inf, 0)))
    found, end = [], num
    while end > 0:
        end = best[end][1]
        if end:
            found.append(end)
    return found[::-1]


def _cost(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)


def changes(history: Sequence[Baseline], policy: Policy) -> list[Change]:
    """Every lasting change of a gated time, from the oldest baseline to the newest."""
    found = []
    for name, metric in gated_times(history[-1], policy) if history else []:
        known = [one for one in history if metric in _metrics(one, name)]
        series = [math.log(_metrics(one, name)[metric]) for one in known]
        ends = [0, *change_points(series), len(series)]
        means = [math.fsum(series[a:b]) / (b - a) for a, b in pairwise(ends)]
        for before, after, start in zip(means, means[1:], ends[1:-1], strict=False):
            origin = known[start].origins[name]
            found.append(Change(name, metric, origin, math.expm1(after - before)))
    return found


def overruns(now: Baseline, release: Baseline, policy: Policy) -> list[Overrun]:
    """The gated times that have used up their budget since the release."""
    found = []
    for name, metric in gated_times(now, policy):
        before = _metrics(release, name).get(metric)
        if not before:
            continue
        share = _metrics(now, name)[metric] / before - 1
        if share > BUDGET:
            reach = math.hypot(_error(now, name, metric), _error(release, name, metric))
            found.append(Overrun(name, metric, share, math.expm1(min(reach, 100.0))))
    return found


def _error(stored: Baseline, name: str, metric: str) -> float:
    """How far a stored time is from its mean with 99.5 % probability, on the log scale."""
    noise = stored.noise_of(name)
    return math.inf if noise is None else noise.reach(metric, 0.995)


def gated_times(stored: Baseline, policy: Policy) -> list[tuple[str, str]]:
    """Id and metric of every gated time in a baseline."""
    return [
        (name, metric)
        for name, record in sorted(stored.records.items())
        if (entry := policy.entry(name)) is not None and entry.tier == "gate"
        for metric in entry.metrics
        if policy.metrics[metric].family == "time"
        and policy.metrics[metric].smallest_effect is None  # coarser than any budget of 2 %
        and policy.metrics[metric].better == "lower"
        and record.metrics.get(metric, 0.0) > 0
    ]


def _metrics(stored: Baseline, name: str) -> dict[str, float]:
    record = stored.records.get(name)
    return {} if record is None else {k: v for k, v in record.metrics.items() if v > 0}
