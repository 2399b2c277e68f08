"""The loop over blocks, with toy processes: when it stops, what it keeps, how it goes on."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from benchmarks.harness import versus as loop
from benchmarks.harness.blocks import SIDES, Block, BlockFile, Request, Side, first_side
from benchmarks.harness.compare import Comparison, judge_blocks
from benchmarks.harness.known import Known
from benchmarks.harness.processes import NOTHING_SELECTED, ArmError, Ran
from benchmarks.harness.record import Session
from benchmarks.harness.rules import Status
from benchmarks.harness.verdict import Code
from benchmarks.harness.versus import Ended, Guard, OutOfTime, Versus, expected_s
from tests.harness.pairs_toys import (
    MACHINE,
    POLICY,
    Times,
    ToyProcesses,
    block,
    timed,
    toy,
)

FOREVER = 1e9
Log = list[tuple[str, tuple[str, ...] | None, int]]
Spoil = Callable[[int, Session], Ran]


@dataclass
class Toys:
    """Two toy arms, a file for their blocks, and everything that was started."""

    folder: Path
    log: Log = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    @property
    def file(self) -> BlockFile:
        """Where the blocks go."""
        return BlockFile(self.folder / "blocks.jsonl")

    def versus(
        self,
        base: Times,
        head: Times,
        *,
        noise: float = 0.002,
        spoil_base: Spoil | None = None,
        spoil_head: Spoil | None = None,
        on_gpu: bool = False,
    ) -> Versus:
        """Arms that take these times."""
        chance = random.Random(5)
        return Versus(
            {
                "base": ToyProcesses(base, noise, chance, self.log, "base", spoil_base),
                "head": ToyProcesses(head, noise, chance, self.log, "head", spoil_head),
            },
            lambda found: judge_blocks(
                found, POLICY, known=Known(names=frozenset({"step", "step_old"}))
            ),
            seed=7,
            on_gpu=on_gpu,
        )

    def run(self, versus: Versus, budget_s: float = FOREVER) -> tuple[Comparison, Ended]:
        """Run to the end."""
        if not self.file.path.exists():
            self.file.start({"seed": 7})
        return versus.run(self.file, self.blocks, budget_s, ignore)


def ignore(_comparison: Comparison, _blocks: Sequence[Block], _side: str) -> None:
    """Nobody looks."""


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    """Nothing measured yet."""
    return Toys(tmp_path)


def test_unchanged_code_stops_after_six_blocks(toys: Toys) -> None:
    """Early, because it is decided."""
    comparison, ended = toys.run(toys.versus({"step": 1.0}, {"step": 1.0}))
    assert (comparison.code, ended, len(toys.blocks)) == (Code.PASS, Ended.DECIDED, 6)


def test_slowdown_is_found_and_only_there(toys: Toys) -> None:
    """5 % of one benchmark: it alone goes on after the screen, and it alone is red."""
    base = {"step_a": 1.0, "step_b": 2.0}
    comparison, _ = toys.run(toys.versus(base, {**base, "step_b": 2.1}))
    assert [entry.finding.id for entry in comparison.red] == ["step_b"]
    assert comparison.code is Code.REGRESSION
    assert {ids for _, ids, _ in toys.log[12:]} == {("step_b",)}


def test_arms_alternate_and_share_order(toys: Toys) -> None:
    """ABBA, every process fresh, both arms of a block in one order that changes between blocks."""
    toys.run(toys.versus({"step": 1.0}, {"step": 1.0}))
    names = [name for name, _, _ in toys.log]
    first = first_side(7, 0)
    second = SIDES[1 - SIDES.index(first)]
    assert names == [first, second, second, first] * 3
    orders = [order for _, _, order in toys.log]
    assert orders[::2] == orders[1::2]
    assert len(set(orders)) == 6


def test_starts_are_random_over_seeds() -> None:
    """Half of the runs begin with the base."""
    starts = [first_side(seed, 0) for seed in range(200)]
    assert 70 < starts.count("base") < 130


def test_budget_ends_it_inconclusive(toys: Toys) -> None:
    """What was measured is kept, and the verdict says that it cannot tell."""
    comparison, ended = toys.run(toys.versus({"step": 1.0}, {"step": 1.0}), budget_s=-1.0)
    assert (comparison.code, ended, toys.log) == (Code.INCONCLUSIVE, Ended.BUDGET, [])


def test_interrupted_run_goes_on_where_it_was(toys: Toys) -> None:
    """Ctrl-C in the fourth block: three are kept, and the rest is the same as without it."""

    def interrupt(number: int, found: Session) -> Ran:
        if number == 4:
            raise KeyboardInterrupt
        return Ran(found, 0, "")

    with pytest.raises(KeyboardInterrupt):
        toys.run(toys.versus({"step": 1.0}, {"step": 1.0}, spoil_head=interrupt))
    header, kept = toys.file.read()
    assert (header["seed"], len(kept)) == (7, 3)
    assert kept == toys.blocks

    resumed = replace_blocks(toys, kept)
    comparison, _ = resumed.run(resumed.versus({"step": 1.0}, {"step": 1.0}))
    assert (comparison.code, [block.index for block in resumed.blocks]) == (
        Code.PASS, [0, 1, 2, 3, 4, 5],
    )  # fmt: skip
    assert toys.file.read()[1] == resumed.blocks


def replace_blocks(toys: Toys, blocks: list[Block]) -> Toys:
    """Another session that found these blocks on disk."""
    return Toys(toys.folder, blocks=list(blocks))


def test_torn_line_is_the_unfinished_block(toys: Toys) -> None:
    """A kill in the middle of a write costs that block, nothing else."""
    toys.run(toys.versus({"step": 1.0}, {"step": 1.0}))
    text = toys.file.path.read_text(encoding="utf-8")
    toys.file.path.write_text(text[:-40], encoding="utf-8")
    _, kept = toys.file.read()
    assert kept == toys.blocks[:5]
    toys.file.append(toys.blocks[5])
    assert toys.file.read()[1] == toys.blocks


def test_benchmark_that_the_base_lacks_is_new(toys: Toys) -> None:
    """It is named, and the rest is compared."""
    comparison, _ = toys.run(toys.versus({"step": 1.0}, {"step": 1.0, "step_new": 1.0}))
    found = {entry.finding.id: entry.finding.status for entry in comparison.entries}
    assert (comparison.code, found["step_new"]) == (Code.PASS, Status.NEW)


def test_benchmark_that_the_head_lacks_is_coverage(toys: Toys) -> None:
    """A benchmark cannot be lost by making it impossible to run."""
    comparison, _ = toys.run(toys.versus({"step": 1.0, "step_old": 1.0}, {"step": 1.0}))
    assert comparison.code is Code.COVERAGE
    assert [e.finding.status for e in comparison.red] == [Status.MISSING]


def test_process_that_dies_is_coverage(toys: Toys) -> None:
    """A crash in one of six processes is named with its exit code, and is no pass."""

    def die(number: int, found: Session) -> Ran:
        return Ran(None, -11, "Segmentation fault") if number == 3 else Ran(found, 0, "")

    comparison, _ = toys.run(toys.versus({"step": 1.0}, {"step": 1.0}, spoil_head=die))
    assert comparison.code is Code.COVERAGE
    assert "exit code -11: Segmentation fault" in comparison.red[0].finding.detail
    assert toys.blocks[2].problems == {"head": "Segmentation fault"}


def test_selection_of_nothing_is_usage(toys: Toys) -> None:
    """A -k that matches no benchmark must not pass."""

    def nothing(_number: int, _found: Session) -> Ran:
        return Ran(None, NOTHING_SELECTED, "no tests ran")

    versus = toys.versus({}, {}, spoil_base=nothing, spoil_head=nothing)
    with pytest.raises(ArmError, match="-k"):
        toys.run(versus)


def test_arms_that_never_start_are_usage(toys: Toys) -> None:
    """With the end of what they printed."""

    def die(_number: int, _found: Session) -> Ran:
        return Ran(None, 3, "INTERNALERROR> boom")

    with pytest.raises(ArmError, match="boom"):
        toys.run(toys.versus({"step": 1.0}, {"step": 1.0}, spoil_base=die, spoil_head=die))


def test_blocks_of_two_machines_are_refused(toys: Toys) -> None:
    """Resumed on another kind of machine."""
    toys.blocks = timed([1.0, 1.0])
    other = replace(MACHINE, cores=64)

    def elsewhere(_number: int, found: Session) -> Ran:
        return Ran(replace(found, machine=other), 0, "")

    versus = toys.versus({"step": 1.0}, {"step": 1.0}, spoil_base=elsewhere, spoil_head=elsewhere)
    with pytest.raises(ArmError, match="different machines"):
        toys.run(versus)


class Uncounted(ToyProcesses):
    """An arm where CUPTI is not available."""

    def count(self, ids: Sequence[str] | None) -> Ran:
        """It cannot."""
        return Ran(None, 4, "CUPTI is not available")


@pytest.mark.parametrize(
    ("lacking", "code"),
    [(SIDES, Code.PASS), (("head",), Code.COVERAGE), (("base",), Code.COVERAGE)],
)
def test_counting_that_fails_stops_nothing(
    toys: Toys, lacking: tuple[Side, ...], code: Code
) -> None:
    """Times are still compared and the block says why; counts that only one arm has are missed."""
    versus = toys.versus({"step": 1.0}, {"step": 1.0}, on_gpu=True)
    arms = dict(versus.arms)
    for side in lacking:
        arms[side] = Uncounted({"step": 1.0}, 0.001, random.Random(side), toys.log, side)
    comparison, _ = toys.run(replace(versus, arms=arms))
    assert (comparison.code, len(toys.blocks)) == (code, 6)
    side = lacking[0]
    assert toys.blocks[0].problems[f"{side}, counting"] == "CUPTI is not available"
    note = "CUDA calls were not counted: CUPTI is not available"
    assert toys.blocks[0].session(side).by_id()["step"].notes == (note,)
    counters = ("launches", "cuda_calls")
    details = [e.finding.detail for e in comparison.entries if e.finding.metric in counters]
    assert all(note in detail for detail in details)
    assert len(details) == (code is Code.COVERAGE)


class Wavering(ToyProcesses):
    """An arm whose launches depend on the data."""

    def count(self, ids: Sequence[str] | None) -> Ran:
        """Two calls did not agree."""
        note = "launches: 3 in one call and 4 in the next: no exact counter"
        records = [replace(toy(name), notes=(note,)) for name in self.times]
        return Ran(Session(MACHINE, "room", "abc123", tuple(records)), 0, "")


def test_reason_for_a_missing_counter_reaches_the_finding(toys: Toys) -> None:
    """COVERAGE without it leaves a reader to guess what the head has done."""
    versus = toys.versus({"step": 1.0}, {"step": 1.0}, on_gpu=True)
    wavering = Wavering({"step": 1.0}, 0.001, random.Random(0), toys.log, "head")
    comparison, _ = toys.run(replace(versus, arms={**versus.arms, "head": wavering}))
    assert comparison.code is Code.COVERAGE
    assert "launches: 3 in one call and 4 in the next" in comparison.red[0].finding.detail


def test_count_that_became_exact_is_named_and_green(toys: Toys) -> None:
    """The base's own depends on the data: the head's is compared with nothing, and is no loss."""
    versus = toys.versus({"step": 1.0}, {"step": 1.0}, on_gpu=True)
    wavering = Wavering({"step": 1.0}, 0.001, random.Random(0), toys.log, "base")
    comparison, _ = toys.run(replace(versus, arms={**versus.arms, "base": wavering}))
    (found,) = [e.finding for e in comparison.entries if e.finding.metric == "cuda_calls"]
    assert (comparison.code, found.status) == (Code.PASS, Status.NOT_GATED)
    assert "launches: 3 in one call and 4 in the next" in found.detail


@pytest.mark.parametrize(("ids", "expected"), [(None, 8.0), (("a",), 2.0), (("a", "b"), 4.0)])
def test_time_of_a_block_is_estimated_by_what_is_left(
    ids: tuple[str, ...] | None, expected: float
) -> None:
    """So that a long first block does not end a run that has little left to measure."""
    records = [toy(name, time_s=1.0) for name in "abcd"]
    last = replace(block(0, records, records), seconds=8.0)
    assert expected_s([last], Request(1, 0, ids)) == expected
    assert expected_s([], Request(0, 0, ids)) == 0.0


class Slow(ToyProcesses):
    """Counting takes 100 s, compilers included, and measuring 10."""

    now = 0.0

    def count(self, ids: Sequence[str] | None) -> Ran:
        """Once for each arm."""
        Slow.now += 100
        return super().count(ids)

    def measure(self, ids: Sequence[str] | None, order: int, block: int = 0) -> Ran:
        """In every block."""
        Slow.now += 10
        return super().measure(ids, order, block)


def test_counting_is_no_estimate_of_the_next_block(
    toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done once: blocks that fit into the budget are not given up for it."""
    monkeypatch.setattr(Slow, "now", 0.0)
    monkeypatch.setattr(loop.time, "monotonic", lambda: Slow.now)
    versus = toys.versus({"step": 1.0}, {"step": 1.0}, on_gpu=True)
    toys.file.start({})
    arms = versus.arms
    for side in SIDES:
        arms[side] = Slow({"step": 1.0}, 0.001, random.Random(side), toys.log, side)
    _, ended = versus.run(toys.file, toys.blocks, 290.0, lambda *_: None)
    assert (ended, [block.seconds for block in toys.blocks]) == (Ended.BUDGET, 4 * [20.0])


@pytest.mark.parametrize(("budget_s", "num_blocks"), [(19.0, 0), (21.0, 1)])
def test_first_block_that_does_not_fit_is_not_finished(
    toys: Toys, monkeypatch: pytest.MonkeyPatch, budget_s: float, num_blocks: int
) -> None:
    """Its second arm takes as long as its first; a budget that holds both gives a block."""
    monkeypatch.setattr(Slow, "now", 0.0)
    monkeypatch.setattr(loop.time, "monotonic", lambda: Slow.now)
    versus = toys.versus({"step": 1.0}, {"step": 1.0})
    for side in SIDES:
        versus.arms[side] = Slow({"step": 1.0}, 0.001, random.Random(side), toys.log, side)
    if num_blocks:
        assert toys.run(versus, budget_s)[1] is Ended.BUDGET
    else:
        with pytest.raises(OutOfTime, match="one of its two arms took 10 s"):
            toys.run(versus, budget_s)
    assert (len(toys.blocks), len(toys.log)) == (num_blocks, 1 + num_blocks)


def test_first_block_ends_as_a_benchmark_begins_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, then nothing more is measured; a later block was foreseen to fit."""
    now = [100.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    told: list[str] = []
    blocks: list[Block] = []
    guard = Guard(told.append, blocks, 10.0)
    now[0] = 200.0
    guard.tell("before the budget runs")
    guard.start()
    now[0] = 209.0
    guard.tell("base 9.0 s: step")
    now[0] = 211.0
    with pytest.raises(OutOfTime, match=r"base 11\.0 s: long"):
        guard.tell("base 11.0 s: long")
    blocks.extend(timed([1.0]))
    guard.tell("head 3.0 s: step")
    assert len(told) == 4


def test_long_benchmarks_count_for_more() -> None:
    """Six trainings left of a suite of kernels take most of the block again."""
    kernels = [replace(toy(n, wall_s=0.01, first_call_s=0.1), rounds=10) for n in "abcd"]
    trainings = replace(toy("learn", wall_s=9.2, first_call_s=9.2), rounds=1)
    last = replace(block(0, [*kernels, trainings], [*kernels, trainings]), seconds=40.0)
    assert expected_s([last], Request(1, 0, ("learn",))) > 35.0
    assert expected_s([last], Request(1, 0, ("a", "b"))) < 2.0


def test_gpu_counts_come_from_a_process_of_their_own(toys: Toys) -> None:
    """Before the first times, which also fills each arm's caches; then never again."""
    toys.run(toys.versus({"step": 1.0}, {"step": 1.0}, on_gpu=True))
    assert [name for name, _, _ in toys.log[:2]] == ["base counts", "head counts"]
    assert sum(name.endswith("counts") for name, _, _ in toys.log) == 2
    assert toys.blocks[0].head.by_id()["step"].counters == {"launches": 3}
