"""What A/A blocks tell about a machine: noise, smallest detectable slowdown, realised false alarms.

Both arms are the same code, so every difference is noise, and every alarm is false. The arms'
labels are redrawn a thousand times: block by block a coin says which one is called the base, and
the paired rule judges each drawing as it would judge a patch.
"""

import dataclasses
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.baseline import locate
from benchmarks.harness.blocks import Block, Pairs, pairs_of
from benchmarks.harness.interest import Interest, interest
from benchmarks.harness.pairs import (
    LOOKS,
    POWER,
    SCREEN_BLOCKS,
    State,
    decide_pairs,
    estimate,
)
from benchmarks.harness.policy import Policy
from benchmarks.harness.record import SCHEMA, RecordError, read_json, write_json
from benchmarks.harness.statistics import median

KIND = "calibration"
MIN_BLOCKS = 8
RELABELLINGS = 1000
TRIALS = 100
"""Simulated comparisons behind each smallest detectable slowdown."""
CLASSES = {"dedicated": 0.005, "shared": 0.015, "noisy": 0.04}
"""Noise classes by the largest standard deviation of a process's log time; beyond: `unfit`."""
TOO_COARSE = 2.0
"""A benchmark that can only find more than this many times its effect of interest is advisory."""


@dataclass(frozen=True)
class Calibrated:
    """One gated time of one benchmark."""

    blocks: int
    log_sd: float
    """Of one process, on the scale of logarithms: that of a block's difference over √2."""
    noise: str
    detectable: float
    """The slowdown that the paired rule finds with 80 % power, as a share."""
    smallest_effect: float
    """The slowdown of interest, by the policy."""
    false_alarms: float
    """Share of the relabellings in which the paired rule found it slower."""

    @property
    def advisory(self) -> bool:
        """Whether it is too coarse to gate, until it is made quieter."""
        return self.detectable > TOO_COARSE * self.smallest_effect


@dataclass(frozen=True)
class Calibration:
    """What a machine's A/A blocks told."""

    key: str
    suite: str
    origin: str
    """Commit, day and digest of the code that was both arms."""
    num_gated: int
    relabellings: int
    suite_false_alarms: float
    """Share of the relabellings in which any time was red."""
    simulated_false_alarms: float
    """The same for normal noise of the same spreads, independent between benchmarks."""
    times: Mapping[str, Calibrated] = field(default_factory=dict)
    """By `id metric`."""


def calibrate(
    blocks: Sequence[Block], policy: Policy, origin: str, seed: int, relabellings: int
) -> Calibration:
    """Calibrate from A/A blocks; RecordError where there are too few to tell anything."""
    found = {f"{name} {metric}": (pairs, wanted) for name, metric, pairs, wanted in
             gated_times(blocks, policy)}  # fmt: skip
    fewest = min((len(pairs.log_ratios) for pairs, _ in found.values()), default=0)
    if fewest < MIN_BLOCKS:
        raise RecordError(f"{fewest} valid A/A blocks tell too little; at least {MIN_BLOCKS}")
    num_gated = len(found)
    real = {name: pairs.log_ratios for name, (pairs, _) in found.items()}
    draw = random.Random(seed)
    alarms = relabelled(real, found, draw, relabellings)
    times = {
        name: _calibrated(pairs, wanted, num_gated, alarms[name] / relabellings)
        for name, (pairs, wanted) in found.items()
    }
    played = _normal(times, draw, max(len(ratios) for ratios in real.values()))
    simulated = relabelled(played, found, draw, relabellings)
    session = blocks[-1].head
    return Calibration(
        session.machine.key, session.suite, origin, num_gated, relabellings,
        alarms[""] / relabellings, simulated[""] / relabellings, times,
    )  # fmt: skip


def gated_times(
    blocks: Sequence[Block], policy: Policy
) -> Iterator[tuple[str, str, Pairs, Interest]]:
    """Every gated time that passed in both arms, with its pairs and what they must find."""
    records = {r.id: r for block in blocks for r in block.head.records if r.outcome == "passed"}
    for name, record in sorted(records.items()):
        entry = policy.entry(name)
        for metric in () if entry is None else entry.metrics:
            rule = policy.metrics[metric]
            if rule.family == "time" and metric in record.metrics and entry is not None:
                pairs = pairs_of(blocks, name, metric, rule.better)
                if pairs.log_ratios:
                    yield name, metric, pairs, interest(entry, rule, median(pairs.base))


def relabelled(
    ratios: Mapping[str, Sequence[float]],
    found: Mapping[str, tuple[Pairs, Interest]],
    draw: random.Random,
    times: int,
) -> dict[str, int]:
    """How often each time was found slower under redrawn labels; `""`: how often any was.

    A coin for each block, the same for all benchmarks in it, as they share its processes. Where
    there are fewer blocks than the rule may ask for, they are drawn again.
    """
    longest = max(map(len, ratios.values()))
    length = SCREEN_BLOCKS + LOOKS[-1]
    alarms = dict.fromkeys(["", *ratios], 0)
    for _ in range(times):
        order = draw.sample(range(longest), min(length, longest))
        order += draw.choices(range(longest), k=length - len(order))
        coins = [draw.choice((-1.0, 1.0)) for _ in range(length)]
        any_red = False
        for name, values in ratios.items():
            row = [coin * values[i % len(values)] for coin, i in zip(coins, order, strict=True)]
            wanted = found[name][1]
            verdict = decide_pairs(
                row, smallest_effect=wanted.effect, num_gated=len(ratios), margin=wanted.margin
            )
            alarms[name] += verdict.state is State.FAIL
            any_red |= verdict.state is State.FAIL
        alarms[""] += any_red
    return alarms


def _calibrated(pairs: Pairs, wanted: Interest, num_gated: int, alarms: float) -> Calibrated:
    log_sd = spread(pairs.log_ratios)
    noise = next((name for name, most in CLASSES.items() if log_sd <= most), "unfit")
    return Calibrated(
        len(pairs.log_ratios), log_sd, noise,
        detectable(log_sd, wanted, num_gated), wanted.effect, alarms,
    )  # fmt: skip


def spread(log_ratios: Sequence[float]) -> float:
    """Standard deviation of one process's log time, from its differences in blocks.

    From the error of their trimmed mean, which for normal values is some 5 % above sd/√n: the safe
    side, and one disturbed block in ten does not count.
    """
    found = estimate(log_ratios)
    return found.error * math.sqrt(found.num / 2)


def detectable(log_sd: float, wanted: Interest, num_gated: int) -> float:
    """The slowdown that the whole paired rule finds with 80 % power in normal noise of this spread.

    By simulation, as the rule has two stages and three looks; infinite where even a slowdown of a
    thousand times would be missed. The same draws serve every slowdown: more is found more often.
    """
    draw = random.Random(TRIALS)
    length = SCREEN_BLOCKS + LOOKS[-1]
    noise = [[math.sqrt(2) * log_sd * draw.gauss(0, 1) for _ in range(length)]
             for _ in range(TRIALS)]  # fmt: skip

    def power(effect: float) -> float:
        states = [
            decide_pairs(
                [effect + value for value in row],
                smallest_effect=wanted.effect, num_gated=num_gated, margin=wanted.margin,
            ).state
            for row in noise
        ]  # fmt: skip
        return states.count(State.FAIL) / TRIALS

    low, high = 0.0, 2.0 * wanted.margin
    while power(high) < POWER:
        low, high = high, 2.0 * high
        if high > math.log(1000):
            return math.inf
    while high - low > 0.06 * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if power(middle) < POWER else (low, middle)
    return math.expm1(high)


def _normal(
    times: Mapping[str, Calibrated], draw: random.Random, num: int
) -> dict[str, list[float]]:
    """Normal differences with the spreads of these times."""
    return {
        name: [draw.gauss(0.0, math.sqrt(2) * time.log_sd) for _ in range(num)]
        for name, time in times.items()
    }


def calibration_path(root: Path, key: str, suite: str, folder: Path | None) -> Path:
    """Beside the baseline, wherever that is."""
    return locate(root, key, suite, folder).with_name(f"{suite}.calibration.json")


def write_calibration(path: Path, found: Calibration) -> None:
    """By rename; numbers of four digits, one line for each time."""
    content = dataclasses.asdict(found)
    content["times"] = {
        name: {key: _short(value) for key, value in time.items()}
        for name, time in content["times"].items()
    }
    write_json(path, {"schema": SCHEMA, "kind": KIND, **content}, depth=("times",))


def _short(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def read_calibration(path: Path, key: str) -> Calibration | None:
    """The stored calibration; None where there is none; RecordError for a foreign one."""
    if not path.exists():
        return None
    content = read_json(path, KIND)
    if content.get("key") != key:
        raise RecordError(f"{path}: is the calibration of {content.get('key')}, this is {key}")
    values: dict[str, Any] = {k: v for k, v in content.items() if k not in ("schema", "kind")}
    try:
        times = {name: Calibrated(**time) for name, time in values.pop("times").items()}
        return Calibration(**values, times=times)
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path}: does not fit ({error}); calibrate again") from error
