"""The paired rule for times (spec/gate.md 4): pure functions over one log ratio per block.

A block is one fresh process per arm; its log ratio is the difference of the two median log times,
positive where the head is slower. Six blocks screen; what is suspect or open goes on with fresh
blocks and is looked at after 8, 16 and 24 of them. The two routes to a FAIL share an error budget
of 1 % for the whole suite: a suspect has already been chosen by a test at 5 %, so its threshold is
15 times that of an equal share.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache

from benchmarks.harness.statistics import t_cdf, t_quantile

MARGIN = 0.005
"""Layout effects: slower by less than this share is not evidence of slower code."""
SCREEN_BLOCKS = 6
LOOKS = (8, 16, 24)
"""Fresh blocks after which the second stage may decide."""
BUDGET = 0.01
"""Largest chance that an unchanged suite is red."""
SCREEN_LEVEL = 0.05
SUSPECT_SHARE = 0.75
"""Share of the budget that is spent on suspects; the rest on what the screen left open."""
FUTILE = 0.05
"""Where all blocks together would decide with less than this chance, fewer are enough to say so."""
TRIM = 0.2
POWER = 0.8
FASTER_LEVEL = 0.05


class State(Enum):
    """Where the pairs of one time stand; the value is the word in the table."""

    MORE = "measuring"
    PASS = "ok"
    FAIL = "SLOWER"
    INCONCLUSIVE = "CANNOT TELL"


class Route(Enum):
    """What the first stage said, which sets the threshold of the second."""

    SCREEN = "screen"
    SUSPECT = "suspect"
    OPEN = "open"
    STORED = "stored"
    """The screen was a stored baseline: no evidence, and the whole budget for the pairs."""


@dataclass(frozen=True)
class Estimate:
    """A trimmed mean of log ratios: Yuen (1974), Biometrika 61, one sample."""

    location: float
    error: float
    """Its standard error, from the Winsorised variance."""
    degrees: int
    num: int

    def p_above(self, limit: float) -> float:
        """One-sided p of θ <= limit: small where the location is above it."""
        if self.error == 0.0:
            return 0.0 if self.location > limit else 1.0
        return t_cdf((limit - self.location) / self.error, self.degrees)

    def bound(self, confidence: float) -> float:
        """The upper confidence bound; the lower one for confidence < 0.5."""
        if self.error == 0.0:
            return self.location
        return self.location + _quantile(confidence, self.degrees) * self.error

    def detectable(self, level: float, above: float) -> float:
        """The log effect that a test of θ <= `above` at `level` finds with 80 % power."""
        if self.error == 0.0:
            return above
        reach = _quantile(1.0 - level, self.degrees) + _quantile(POWER, self.degrees)
        return above + reach * self.error

    def after(self, num: int) -> "Estimate":
        """What as many blocks of the same spread would estimate, at the same location."""
        kept = num - 2 * math.floor(TRIM * num)
        return Estimate(self.location, self.error * math.sqrt(self.num / num), kept - 1, num)


@dataclass(frozen=True)
class PairedVerdict:
    """What the pairs of one time say. Effects are shares: 0.03 is 3 % slower."""

    state: State
    route: Route
    effect: float
    low: float
    high: float
    """The bounds that the rule uses: one-sided 95 % in the screen, 97.5 % after it."""
    p: float
    """Adjusted for looks, route and suite: below 0.01 is red in the second stage."""
    detectable: float
    """The smallest slowdown that these blocks could have found (with 80 % power)."""
    num_blocks: int
    """Blocks that the numbers above come from."""
    missing_blocks: int
    """Fresh blocks until the next look; 0 once decided."""
    faster: bool
    """Proven faster, two-sided, adjusted for the suite; reported and never red."""
    stopped: float | None = None
    """Given up early: the smallest slowdown that all blocks to come could have found."""


def estimate(log_ratios: Sequence[float]) -> Estimate:
    """The 20 %-trimmed mean with its Winsorised standard error; ValueError for nothing finite."""
    num = len(log_ratios)
    if num == 0 or not all(map(math.isfinite, log_ratios)):
        raise ValueError(f"log ratios must be finite and at least one, got {list(log_ratios)}")
    ordered = sorted(log_ratios)
    cut = math.floor(TRIM * num)
    kept = ordered[cut : num - cut]
    location = math.fsum(kept) / len(kept)
    if len(kept) < 2:
        return Estimate(location, math.inf, 1, num)
    winsorised = [min(max(value, kept[0]), kept[-1]) for value in ordered]
    centre = math.fsum(winsorised) / num
    squares = math.fsum((value - centre) ** 2 for value in winsorised)
    error = math.sqrt(squares / (len(kept) * (len(kept) - 1)))
    # A sum of equal numbers is off by rounding, which would pass for a spread.
    return Estimate(location, 0.0 if kept[0] == kept[-1] else error, len(kept) - 1, num)


def decide_pairs(
    log_ratios: Sequence[float],
    *,
    smallest_effect: float,
    num_gated: int,
    screened: bool = False,
    margin: float = MARGIN,
    coarse: bool = False,
) -> PairedVerdict:
    """Decide from one log ratio per valid block, in the order in which they were taken.

    `num_gated` is the number of gated times of the whole suite (M). With `screened` a stored
    baseline chose this time, so there is no paired first stage and every block is fresh. A time
    that is known to be `coarse` goes on only while it may yet be red. Blocks beyond the next look,
    or beyond the decision, change nothing. ValueError for what is not finite.
    """
    if num_gated < 1 or smallest_effect <= margin:
        raise ValueError(
            f"num_gated {num_gated} must be >= 1, smallest_effect {smallest_effect} > {margin}"
        )
    rule = _Rule(math.log1p(margin), math.log1p(smallest_effect), num_gated, coarse)
    if screened:
        return _second_stage(rule, Route.STORED, log_ratios)
    if len(log_ratios) < SCREEN_BLOCKS:
        return rule.verdict(State.MORE, Route.SCREEN, log_ratios, SCREEN_BLOCKS - len(log_ratios))
    first, fresh = log_ratios[:SCREEN_BLOCKS], log_ratios[SCREEN_BLOCKS:]
    screen = estimate(first)
    if screen.p_above(rule.margin) < SCREEN_LEVEL:
        return _second_stage(rule, Route.SUSPECT, fresh, first)
    if screen.bound(1.0 - SCREEN_LEVEL) < rule.interest:
        return rule.verdict(State.PASS, Route.SCREEN, first, 0)
    return _second_stage(rule, Route.OPEN, fresh, first)


def _second_stage(
    rule: "_Rule", route: Route, fresh: Sequence[float], first: Sequence[float] = ()
) -> PairedVerdict:
    if first and rule.is_futile(route, estimate(first), counted=False):
        return rule.given_up(route, first)
    for look in LOOKS:
        if len(fresh) < look:
            shown = fresh if len(fresh) >= 4 else [*first, *fresh]
            return rule.verdict(State.MORE, route, shown, look - len(fresh))
        seen = fresh[:look]
        found = estimate(seen)
        if found.p_above(rule.margin) < rule.level(route):
            return rule.verdict(State.FAIL, route, seen, 0)
        if found.bound(0.975) < rule.interest:
            return rule.verdict(State.PASS, route, seen, 0)
        if look < LOOKS[-1] and rule.is_futile(route, found, counted=True):
            return rule.given_up(route, seen)
    return rule.verdict(State.INCONCLUSIVE, route, fresh[: LOOKS[-1]], 0)


@dataclass(frozen=True)
class _Rule:
    """The limits on the scale of logarithms, and how the error budget is split."""

    margin: float
    interest: float
    num_gated: int
    coarse: bool

    def level(self, route: Route) -> float:
        """The one-sided level of one look of the second stage; in the screen, that of a suspect."""
        share = BUDGET / self.num_gated
        alpha = {
            Route.SCREEN: SCREEN_LEVEL * len(LOOKS),
            Route.SUSPECT: SUSPECT_SHARE * share / SCREEN_LEVEL,
            Route.OPEN: (1.0 - SUSPECT_SHARE) * share,
            Route.STORED: share,
        }[route]
        return alpha / len(LOOKS)

    def is_futile(self, route: Route, found: Estimate, *, counted: bool) -> bool:
        """Whether the last look would hardly decide, if its blocks are like those of `found`.

        Its location is drawn around the one found, less far where these blocks are `counted` in it,
        and by Student's t, as the spread is only estimated. Giving up takes nothing but chances to
        be red or to pass: it cannot raise a false alarm.
        """
        if not 0.0 < found.error < math.inf:
            return False
        last = found.after(LOOKS[-1])
        share = found.num / last.num
        step = found.error * math.sqrt(1.0 - share if counted else 1.0 + share)
        passes = self.interest - _quantile(0.975, last.degrees) * last.error
        fails = self.margin + _quantile(1.0 - self.level(route), last.degrees) * last.error
        to_pass = 0.0 if self.coarse else t_cdf((passes - found.location) / step, found.degrees)
        return to_pass + t_cdf((found.location - fails) / step, found.degrees) < FUTILE

    def given_up(self, route: Route, log_ratios: Sequence[float]) -> PairedVerdict:
        """Inconclusive before the last look, with what that could have found."""
        last = estimate(log_ratios).after(LOOKS[-1])
        stopped = _share(last.detectable(self.level(route), self.margin))
        return replace(self.verdict(State.INCONCLUSIVE, route, log_ratios, 0), stopped=stopped)

    def verdict(
        self, state: State, route: Route, log_ratios: Sequence[float], missing: int
    ) -> PairedVerdict:
        """The numbers beside a state; all unknown without any block."""
        if not log_ratios:
            return PairedVerdict(
                state, route, math.nan, -math.inf, math.inf, 1.0, math.inf, 0, missing, False
            )
        found = estimate(log_ratios)
        one_sided = SCREEN_LEVEL if route is Route.SCREEN else 0.025
        # A decision of the screen is a pass: its p is adjusted as if it had stayed open.
        level = self.level(Route.OPEN if route is Route.SCREEN else route)
        faster = 2.0 * (1.0 - found.p_above(-self.margin)) * self.num_gated < FASTER_LEVEL
        return PairedVerdict(
            state, route,
            effect=_share(found.location),
            low=_share(found.bound(one_sided)), high=_share(found.bound(1.0 - one_sided)),
            p=min(1.0, found.p_above(self.margin) * BUDGET / level),
            detectable=_share(found.detectable(self.level(route), self.margin)),
            num_blocks=found.num, missing_blocks=missing,
            faster=faster and state is not State.MORE,
        )  # fmt: skip


def _share(log_ratio: float) -> float:
    """A log ratio as a share; what no float holds is infinite."""
    return math.inf if log_ratio > 700.0 else math.expm1(log_ratio)


@cache
def _quantile(probability: float, degrees: int) -> float:
    return t_quantile(probability, degrees)
