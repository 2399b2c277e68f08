"""`python -m benchmarks gate` over a toy repository, its processes played."""

import random
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.__main__ import main
from benchmarks.harness.blocks import Side
from benchmarks.harness.processes import Ran
from benchmarks.harness.progress import Tell
from benchmarks.harness.record import Session
from benchmarks.harness.runs import Options
from benchmarks.harness.startup import HELD
from benchmarks.harness.trees import Arm, Source
from tests.harness.pairs_toys import ToyProcesses, toy
from tests.harness.toy_trees import ToyTree


@dataclass
class Stage:
    """A toy repository with a baseline, and processes that take as long as their package says."""

    toy: ToyTree
    log: list[tuple[str, tuple[str, ...] | None, int]] = field(default_factory=list)
    benchmarks: tuple[str, ...] = ("spin", "steady")
    noise: float = 0.001
    offset: float = 1.0
    """How much slower this session is than the stored one."""
    dies_in_the_base: bool = False
    held: dict[Side, float] = field(default_factory=dict)
    """What a process of an arm holds at its start, in MiB."""
    arms: list[dict[str, str]] = field(default_factory=list)
    """The files of the benchmarks that each arm got."""

    def gate(self, *arguments: str) -> int:
        """The literal command against the first commit; its exit code."""
        base = self.toy.git("rev-list", "--max-parents=0", "HEAD")
        return main(["gate", "--base", base, "--device", "cpu", *arguments], self.toy.root)

    def launcher(
        self, _root: Path, _source: Source, arm: Arm, side: Side, _options: Options, _tell: Tell
    ) -> ToyProcesses:
        """Stands in for real processes."""
        text = (arm.root / "rap" / "__init__.py").read_text(encoding="utf-8")
        cost = {"spin": float(text.split()[2]), "steady": 0.01, "more": 0.01}
        files = [*(arm.root / "benchmarks").glob("*.*")]
        self.arms.append({path.name: path.read_text(encoding="utf-8") for path in files})
        times = {name: self.offset * cost[name] for name in self.benchmarks}
        chance = random.Random(f"{side} of the toys {len(self.log)}")
        spoil = crash if self.dies_in_the_base and side == "base" else None
        if side in self.held:
            start = {HELD: self.held[side] * 2**20}
            spoil = lambda _, found: Ran(replace(found, start=start), 0, "")  # noqa: E731
        return ToyProcesses(times, self.noise, chance, self.log, side, spoil)


def crash(_number: int, found: Session) -> Ran:
    """Every benchmark uses a name that the package lacks."""
    reason = "AttributeError: module 'rap' has no attribute 'faster'"
    records = [replace(toy(one.id, outcome="errored"), reason=reason) for one in found.records]
    return Ran(replace(found, records=tuple(records)), 1, "")
