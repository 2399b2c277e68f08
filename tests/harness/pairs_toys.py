"""Toy blocks and toy processes for the tests of the A/B: no process is started."""

import dataclasses
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.harness.blocks import Block, sealed
from benchmarks.harness.machine import Machine
from benchmarks.harness.policy import Entry, MetricRule, Policy
from benchmarks.harness.processes import Ran
from benchmarks.harness.record import Outcome, Record, Session

MACHINE = Machine("cpu", "Toy CPU", 2, 2**33, "none", {"python": "3.11"})
POLICY = Policy(
    {
        "time_s": MetricRule("time", "lower", relative=0.25, confirm=0.15),
        "steps_per_s": MetricRule("time", "higher", relative=0.25),
        "exact_bytes": MetricRule("memory", "lower", relative=0.01, absolute=1000),
        "noisy_bytes": MetricRule("memory", "lower", relative=0.01, absolute=1000, confirm=0.01),
        "error_m": MetricRule("accuracy", "lower", relative=0.1),
        "open_s": MetricRule(
            "time", "lower", relative=1.0, absolute=2.0, confirm=0.75, smallest_effect=0.5
        ),
    },
    (
        Entry("advice*", "nobody", ("time_s",), tier="advisory"),
        Entry("rate*", "somebody", ("steps_per_s",)),
        Entry("hold*", "somebody", ("exact_bytes", "noisy_bytes")),
        Entry("learn*", "somebody", ("error_m",)),
        Entry("step*", "somebody", ("time_s",)),
        Entry("open*", "somebody", ("open_s",)),
    ),
)
Times = Mapping[str, float]


def toy(name: str = "step", *, outcome: Outcome = "passed", **metrics: float) -> Record:
    """One benchmark in one process."""
    return Record(name, f"benchmarks/bench_toy.py::{name}", outcome, metrics=metrics)


def session(*records: Record) -> Session:
    """What a process measured on the toy machine."""
    return Session(MACHINE, "room", "abc123", records)


def block(index: int, base: Sequence[Record], head: Sequence[Record], *, attempt: int = 0) -> Block:
    """A block whose arms measured these records."""
    ids = tuple(sorted({record.id for record in (*base, *head)}))
    return Block(index, attempt, "base", ids, session(*base), session(*head), 1.0)


def timed(ratios: Sequence[float], name: str = "step") -> list[Block]:
    """Blocks in which the head took these multiples of the base's second."""
    return [
        block(n, [toy(name, time_s=1.0)], [toy(name, time_s=ratio)])
        for n, ratio in enumerate(ratios)
    ]


@dataclasses.dataclass
class ToyProcesses:
    """One arm: its times by benchmark, with noise between processes; `log` notes every start."""

    times: Times
    noise: float
    generator: random.Random
    log: list[tuple[str, tuple[str, ...] | None, int]]
    name: str
    spoil: Callable[[int, Session], Ran] | None = None
    """What else becomes of the n-th process."""
    started: int = 0

    def measure(self, ids: Sequence[str] | None, order: int, block: int = 0) -> Ran:
        """Measure, in no time."""
        self.log.append((self.name, None if ids is None else tuple(ids), order))
        factor = 1.0 + self.generator.gauss(0.0, self.noise)
        wanted = [name for name in self.times if ids is None or name in ids]
        found = session(*(toy(name, time_s=self.times[name] * factor) for name in wanted))
        self.started += 1
        return self.spoil(self.started, found) if self.spoil else Ran(found, 0, "")

    def screen(self) -> Ran:
        """One pass over everything."""
        return self.measure(None, 0)

    def count(self, ids: Sequence[str] | None) -> Ran:
        """Count three launches of each."""
        self.log.append((f"{self.name} counts", None if ids is None else tuple(ids), 0))
        records = [dataclasses.replace(toy(name), counters={"launches": 3}) for name in self.times]
        return Ran(session(*records), 0, "")


def reseal(path: Path, text: str) -> None:
    """Write lines of blocks, each with the digest that it needs: whoever forges one can do that."""
    before, lines = "", []
    for line in text.splitlines():
        content = json.loads(line)
        if isinstance(content, dict):
            content.pop("digest", None)
            line, before = sealed(content, before)
        lines.append(line.rstrip("\n"))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
