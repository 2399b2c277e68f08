"""Two clocks for every round, verified warm-up, and short work in batches.

`cpu_s` beside them is the processor time of all threads: what other programs steal from the wall
clock does not count there, so it tells a busy machine from slower code.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from benchmarks.harness.statistics import median

T = TypeVar("T")
WarmUp = Literal["verified", "scattered", "fixed", "unsteady"]

SHORT_S = 200e-6
"""Work below this is batched: one synchronisation (or clock reading) for many calls."""
BATCH_S = 2e-3
LOOK_EVERY_S, LOOK_EVERY_ROUNDS = 0.5, 10
"""How much lies between two looks at a device under load, at least."""
AGREEMENT = 0.005
"""Largest relative difference between the medians of two windows that counts as steady."""
SCATTER = 1.8
"""Median steps from round to round that make a standard error of that difference, of one round."""


@dataclass(frozen=True)
class Round:
    """One round: seconds per call on each clock; one GPU span for every call of a batch."""

    wall_s: float
    cpu_s: float
    gpu_s: tuple[float, ...] = ()


class Clock(Protocol[T]):
    """Calls `step` `calls` times and reads the clocks around it."""

    def __call__(self, step: Callable[[], T], calls: int) -> tuple[T, Round]:
        """What the last call returned, and the round."""
        ...


def host_clock(step: Callable[[], T], calls: int) -> tuple[T, Round]:
    """Wall and processor time of `calls` calls, per call."""
    cpu, start = time.process_time(), time.perf_counter()
    value = step()
    for _ in range(calls - 1):
        value = step()
    wall = time.perf_counter() - start
    return value, Round(wall / calls, (time.process_time() - cpu) / calls)


def cuda_clock(step: Callable[[], T], calls: int) -> tuple[T, Round]:
    """CUDA events on the current stream around every call; wall time around all and one sync."""
    import torch

    pairs = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(calls)
    ]
    torch.cuda.synchronize()
    cpu, start = time.process_time(), time.perf_counter()
    pairs[0][0].record()
    value = step()
    pairs[0][1].record()
    for begin, end in pairs[1:]:
        begin.record()
        value = step()
        end.record()
    torch.cuda.synchronize()
    wall = time.perf_counter() - start
    spans = tuple(1e-3 * begin.elapsed_time(end) for begin, end in pairs)
    return value, Round(wall / calls, (time.process_time() - cpu) / calls, spans)


@dataclass(frozen=True)
class Budget:
    """How long a benchmark may warm up and run; seconds of wall time."""

    window: int
    """Rounds in each of the two windows that must agree."""
    warm_s: float
    warm_cap_s: float
    rounds: int
    max_rounds: int
    time_s: float
    cap_s: float
    """After this long a slow benchmark stops with `MIN_ROUNDS` rounds."""


MIN_ROUNDS = 3
# Of measuring alone: what a benchmark builds and checks comes on top. A warm-up of 0.5 s was too
# short for the two windows of a step of 75 ms, which could then only be unsteady.
BUDGETS = {
    "cuda": Budget(5, 0.05, 1.6, rounds=10, max_rounds=300, time_s=0.15, cap_s=2.0),
    "cpu": Budget(4, 0.2, 2.0, rounds=8, max_rounds=200, time_s=1.2, cap_s=4.0),
}


@dataclass(frozen=True)
class Timing(Generic[T]):
    """What a measurement took: every round, the first call, and what the calls returned."""

    rounds: tuple[Round, ...]
    first_call_s: float
    warm_up: WarmUp
    first: T
    last: T


@dataclass(frozen=True)
class Loop(Generic[T]):
    """One benchmark's step and what happens around each of its rounds, outside the span."""

    step: Callable[[], T]
    clock: Clock[T]
    before_round: Callable[[], object] | None = None
    look: Callable[[], object] | None = None
    """Looks at the device after the warm-up, beside long rounds and after them; nothing is timed
    while it does."""

    def look_under_load(self, calls: int) -> None:
        """Queue the work of one more round and look; the next round waits for it before it starts.

        So no timed round pays for the look, and what it shows is the device at this work. Not more
        than a round is queued: memory that waits for another stream would add up.
        """
        if self.look is None:
            return
        if self.before_round is not None:
            self.before_round()
        for _ in range(calls):
            self.step()
        self.look()

    def round(self, calls: int) -> tuple[T, Round]:
        """One round of `calls` calls."""
        if self.before_round is not None:
            self.before_round()
        return self.clock(self.step, calls)

    def batch(self, estimate_s: float) -> int:
        """Calls per round: several for short work, never where something happens between rounds."""
        if estimate_s >= SHORT_S or self.before_round is not None:
            return 1
        return min(1000, math.ceil(BATCH_S / max(estimate_s, 1e-7)))


def take(
    loop: Loop[T], budget: Budget, rounds: int | None, rehearsed: Callable[[], object]
) -> Timing[T]:
    """First call, second call, `rehearsed`, warm-up, rounds.

    With a fixed number of `rounds` two calls are the only warm-up, and with `rounds=1` the first
    call is the measurement itself: for work of many seconds that is not repeated.
    """
    first, opening = loop.round(1)
    if rounds == 1:
        rehearsed()
        return Timing((opening,), opening.wall_s, "fixed", first, first)
    estimate = loop.round(1)[1].wall_s
    rehearsed()
    warm_up: WarmUp = "fixed"
    calls = 1
    if rounds is None:
        calls = loop.batch(estimate)
        warm_up = _warm_up(loop, budget, calls, estimate)
    loop.look_under_load(calls)
    taken, last = _rounds(loop, budget, rounds, calls)
    loop.look_under_load(calls)
    return Timing(tuple(taken), opening.wall_s, warm_up, first, last)


def _warm_up(loop: Loop[T], budget: Budget, calls: int, estimate: float) -> WarmUp:
    start = time.perf_counter()
    times: list[float] = []
    while True:
        elapsed = time.perf_counter() - start
        if elapsed >= budget.warm_s and steady(times, budget.window):
            return "verified"
        if elapsed + calls * estimate >= budget.warm_cap_s:
            return "scattered" if only_scatters(times, budget.window) else "unsteady"
        times.append(loop.round(calls)[1].wall_s)


def steady(times: list[float], window: int) -> bool:
    """Whether the medians of the last two windows of round times agree within 0.5 %."""
    if len(times) < 2 * window:
        return False
    now, before = median(times[-window:]), median(times[-2 * window : -window])
    return abs(math.log(now / before)) < AGREEMENT


def only_scatters(times: list[float], window: int) -> bool:
    """Whether rounds that never agreed within 0.5 % go anywhere, as far as they can tell.

    Where each round is 10 % from the next, that agreement is luck. Here the later half of all
    rounds is halved, and the two medians may differ by what such rounds scatter by.
    """
    half = max(window, len(times) // 4)
    if len(times) < 2 * half:
        return False
    recent = [math.log(time) for time in times[-2 * half :]]
    steps = [abs(one - other) for one, other in itertools.pairwise(recent)]
    drift = abs(median(recent[half:]) - median(recent[:half]))
    return drift < SCATTER * median(steps) / math.sqrt(half)


def _rounds(loop: Loop[T], budget: Budget, rounds: int | None, calls: int) -> tuple[list[Round], T]:
    value, taken = loop.round(calls)
    kept = [taken]
    looked, unseen = time.perf_counter(), 1
    start = looked - taken.wall_s * calls
    while not _enough(len(kept), time.perf_counter() - start, budget, rounds):
        if unseen >= LOOK_EVERY_ROUNDS and time.perf_counter() - looked >= LOOK_EVERY_S:
            loop.look_under_load(calls)
            looked, unseen = time.perf_counter(), 0
        unseen += 1
        value, taken = loop.round(calls)
        kept.append(taken)
    return kept, value


def _enough(num: int, elapsed: float, budget: Budget, rounds: int | None) -> bool:
    if rounds is not None:
        return num >= rounds
    if num >= budget.max_rounds or (num >= MIN_ROUNDS and elapsed >= budget.cap_s):
        return True
    return num >= budget.rounds and elapsed >= budget.time_s
