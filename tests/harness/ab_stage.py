"""`python -m benchmarks ab` over a toy repository, its processes played."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.__main__ import main
from benchmarks.harness.blocks import Side
from benchmarks.harness.listing import Listing
from benchmarks.harness.processes import Ran
from benchmarks.harness.progress import Tell
from benchmarks.harness.record import Session
from benchmarks.harness.runs import Options, Trees
from benchmarks.harness.trees import Arm
from benchmarks.harness.versus import Processes
from tests.harness.pairs_toys import ToyProcesses
from tests.harness.toy_trees import ToyTree


@dataclass
class Stage:
    """A toy repository, and toy processes that take as long as their arm's package says."""

    toy: ToyTree
    noise: float = 0.001
    spoil: Callable[[int, Session], Ran] | None = None
    log: list[tuple[str, tuple[str, ...] | None, int]] = field(default_factory=list)
    seen: list[Path] = field(default_factory=list)
    """Every arm's tree."""
    tell: Tell = print
    """What its processes tell to."""
    listing: Listing = field(default_factory=Listing)
    """What pytest collects of a base whose suite is another one."""

    def ab(self, *arguments: str) -> int:
        """The literal command; its exit code."""
        return main(["ab", "--device", "cpu", *arguments], self.toy.root)

    def launchers(
        self, _root: Path, _trees: Trees, arms: dict[str, Arm], options: Options, tell: Tell
    ) -> dict[Side, Processes]:
        """Stands in for the real processes."""
        self.tell = tell
        chance = random.Random(3)
        played: dict[Side, Processes] = {}
        for side in ("base", "head"):
            root = arms[side].root
            self.seen.append(root)
            text = (root / "rap" / "__init__.py").read_text(encoding="utf-8")
            cost = float(text.split()[2]) * (1.3 if options.faults and side == "head" else 1.0)
            spoil = self.spoil if side == "head" else None
            times = {"spin": cost, "steady": 0.01}
            played[side] = ToyProcesses(times, self.noise, chance, self.log, side, spoil)
        return played

    def runs(self) -> list[Path]:
        """The folders that hold records."""
        return sorted((self.toy.root / ".benchmarks" / "ab").glob("*"))

    def result(self) -> dict[str, object]:
        """The newest JSON."""
        return json.loads((self.runs()[-1] / "result.json").read_text(encoding="utf-8"))
