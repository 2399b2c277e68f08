"""The loop of an A/B: block after block until everything is decided, or the time is spent."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Protocol

from benchmarks.harness.blocks import SIDES, Block, BlockFile, Request, Side, first_side, order_seed
from benchmarks.harness.compare import Comparison
from benchmarks.harness.counting import joined
from benchmarks.harness.machine import Machine
from benchmarks.harness.processes import NOTHING_SELECTED, ArmError, Ran, lost
from benchmarks.harness.progress import Tell
from benchmarks.harness.record import Record, Session

FINE = (0, 1)
"""pytest's exit codes of a run that came to its end, with or without a failed benchmark."""
NO_SUCH_BENCHMARK = "LookupError: its tree has no such benchmark"


class Ended(Enum):
    """Why a comparison ended."""

    DECIDED = "decided"
    BUDGET = "the time is spent"
    INTERRUPTED = "interrupted"


class OutOfTime(Exception):  # noqa: N818 (no error: what was asked for has ended)
    """The budget does not hold the first block; says at what that was seen."""


class Guard:
    """Ends a first block, of which nobody knows how long it takes, where the budget is spent.

    As a benchmark begins, so that none is cut off; half a block is no pair, and is not kept.
    """

    def __init__(self, tell: Tell, blocks: Sequence[Block], budget_s: float) -> None:
        self._tell, self._blocks, self._budget_s = tell, blocks, budget_s
        self._end = math.inf

    def start(self) -> None:
        """The budget runs from here."""
        self._end = time.monotonic() + self._budget_s

    def tell(self, text: str) -> None:
        """Hand on which benchmark begins; OutOfTime where it would begin too late."""
        self._tell(text)
        if not self._blocks and time.monotonic() > self._end:
            raise OutOfTime(f"it was spent at {text}")


class Processes(Protocol):
    """One arm's processes; a test plays them."""

    def measure(self, ids: Sequence[str] | None, order: int, block: int) -> Ran:
        """Measure benchmarks in a fresh process, as part of a block."""
        ...

    def count(self, ids: Sequence[str] | None) -> Ran:
        """Count CUDA calls in a fresh process."""
        ...


@dataclass(frozen=True)
class Versus:
    """Two arms and how to judge them."""

    arms: dict[Side, Processes]
    judge: Callable[[Sequence[Block]], Comparison]
    seed: int
    ids: tuple[str, ...] | None = None
    """Benchmarks of the first block; None: all that the command line selects."""
    on_gpu: bool = False

    def run(
        self,
        file: BlockFile,
        blocks: list[Block],
        budget_s: float,
        show: Callable[[Comparison, Sequence[Block], str], object],
    ) -> tuple[Comparison, Ended]:
        """Go on from `blocks`, which grows, until the judge asks for nothing more.

        OutOfTime where the budget is spent within the first block.
        """
        start = time.monotonic()
        while True:
            comparison = self.judge(blocks)
            show(comparison, blocks, "")
            request = comparison.request
            if request is None:
                return comparison, Ended.DECIDED
            if time.monotonic() - start + expected_s(blocks, request) > budget_s:
                return comparison, Ended.BUDGET

            tell = partial(show, comparison, blocks)
            block = self._block(request, tell, math.inf if blocks else start + budget_s)
            _require_one_machine([*blocks[:1], block])
            file.append(block)
            blocks.append(block)

    def _block(self, request: Request, tell: Callable[[str], object], end: float) -> Block:
        """Measure a block; OutOfTime where its second arm would not be done before `end`."""
        first = first_side(self.seed, request.index)
        ids = self.ids if request.ids is None else request.ids
        order = order_seed(self.seed, request.index)
        counts = self._counts(ids) if self.on_gpu and request.ids is None else {}
        problems = {f"{side}, counting": c.tail for side, c in counts.items() if c.code not in FINE}
        start = time.monotonic()  # counting is done once: the next block takes as long without
        ran: dict[Side, Ran] = {}
        began: list[float] = []
        for side in (first, *(s for s in SIDES if s != first)):
            began.append(time.monotonic())
            _refuse_late(began, end)
            tell(side)
            ran[side] = self.arms[side].measure(ids, order, request.index)
        if all(one.code == NOTHING_SELECTED for one in ran.values()):
            raise ArmError("the selection (-k) holds no benchmark, in neither arm")
        machine = next((one.session.machine for one in ran.values() if one.session), None)
        if machine is None:
            raise lost("neither arm could be measured, base and head:", *(ran[s] for s in SIDES))
        problems |= {side: one.tail for side, one in ran.items() if one.code not in FINE}
        sessions = {side: _complete(ran[side], ids, machine) for side in SIDES}
        for side, counted in counts.items():
            sessions[side] = with_counts(sessions[side], counted)
        return Block(
            request.index, request.attempt, first, ids, sessions["base"], sessions["head"],
            round(time.monotonic() - start, 3), problems,
        )  # fmt: skip

    def _counts(self, ids: Sequence[str] | None) -> dict[Side, Ran]:
        return {side: self.arms[side].count(ids) for side in SIDES}


def _refuse_late(began: Sequence[float], end: float) -> None:
    """OutOfTime where a block's second arm, as long as the first, would end too late."""
    if len(began) == len(SIDES):
        took = began[1] - began[0]
        if began[1] + took > end:
            raise OutOfTime(f"one of its two arms took {took:.0f} s")


def expected_s(blocks: Sequence[Block], request: Request) -> float:
    """About how long a block will take: the last one's time, by the share measured again."""
    if not blocks:
        return 0.0
    ran = [record for record in blocks[-1].head.records if record.outcome == "passed"]
    costs = {record.id: record.cost_s for record in ran}
    if request.ids is None or not costs:
        return blocks[-1].seconds
    wanted = sum(costs.get(name, max(costs.values())) for name in request.ids)
    return min(1.0, wanted / sum(costs.values())) * blocks[-1].seconds


def _complete(ran: Ran, ids: Sequence[str] | None, machine: Machine) -> Session:
    """The session with an errored record for each benchmark that gave none though it was asked."""
    session = ran.session
    if session is None:
        session = Session(machine, "unknown", "unknown")
    if ran.session is not None and ran.code in FINE:
        reason = NO_SUCH_BENCHMARK
    else:
        last = ran.tail.splitlines()[-1:] or [""]
        reason = f"its process ended with exit code {ran.code}: {last[0]}"
    known = session.by_id()
    lost = [Record(name, "", "errored", reason) for name in ids or () if name not in known]
    return replace(session, records=(*session.records, *lost))


def with_counts(session: Session, counts: Ran) -> Session:
    """The session with the exact counts that another process of the same arm has taken."""
    found = {} if counts.session is None else counts.session.by_id()
    records = [joined(record, found.get(record.id), counts.tail) for record in session.records]
    return replace(session, records=tuple(records))


def _require_one_machine(blocks: Sequence[Block]) -> None:
    """ArmError where both arms, or a resumed run, were not measured on one kind of machine."""
    machines = [block.session(side).machine for block in blocks for side in SIDES]
    keys = {machine.key for machine in machines}
    if len(keys) > 1:
        raise ArmError(
            f"blocks of different machines cannot be compared: {', '.join(sorted(keys))}; "
            "start again without --resume"
        )
