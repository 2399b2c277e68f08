"""The state of one pytest session: what was asked, which benchmarks ran, what they measured."""

import dataclasses
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness.baseline import (
    COMMITTED,
    LOCAL,
    Baseline,
    is_committed,
    locate,
    read_baseline,
)
from benchmarks.harness.canary import Canaries
from benchmarks.harness.ceiling import measure_ceilings
from benchmarks.harness.commit import commit_of
from benchmarks.harness.counting import CallCounter, CountingError, cuda_counter
from benchmarks.harness.environments import SetupError
from benchmarks.harness.faults import Faults
from benchmarks.harness.gpu import Gpu
from benchmarks.harness.lock import claim
from benchmarks.harness.machine import Machine, suite_name, this_machine
from benchmarks.harness.measure import Measure, Stage
from benchmarks.harness.memory import MemoryWatch, forget_what_is_loaded
from benchmarks.harness.options import Wanted
from benchmarks.harness.parameters import matches, stable_id
from benchmarks.harness.policy import Policy, read_policy
from benchmarks.harness.record import Outcome, Record, Session
from benchmarks.harness.startup import Startup
from benchmarks.harness.subject import measured_subject
from benchmarks.harness.verdict import Code

POLICY = Path("benchmarks/policy.toml")


class TimedRun:
    """What only a timed session has: the machine, the policy, the stored baseline, the canaries."""

    def __init__(self, root: Path, wanted: Wanted, device: str, suite: str) -> None:
        self.policy: Policy = read_policy(root / POLICY)
        self.machine: Machine
        self.gpu: Gpu | None
        self.machine, self.gpu = this_machine(device)
        self.path = locate(root, self.machine.key, suite, wanted.baseline_dir)
        self.baseline: Baseline | None = read_baseline(self.path, self.machine.key, suite)
        self.commit = commit_of(root)
        if wanted.count and device != "cuda":
            raise CountingError("--benchmark-count counts CUDA calls: it needs an NVIDIA GPU")
        self.counter: CallCounter | None = cuda_counter() if wanted.count else None
        self._canaries: Canaries | None = None

    @property
    def canaries(self) -> Canaries:
        """Built before the first benchmark, when its module has imported what it needs."""
        if self._canaries is None:
            self._canaries = Canaries(self.machine.device)
        return self._canaries


class Suite:
    """The benchmarks of this session and what became of them."""

    def __init__(self, root: Path, wanted: Wanted, device: str, injected: Faults) -> None:
        self.root = root
        self.wanted = wanted
        self.device = device
        self.faults = injected
        self.timing: TimedRun | None = None
        self._ids: dict[str, str] = {}
        self._collected: set[str] = set()
        self._memory: MemoryWatch | None = None
        self._measures: dict[str, Measure] = {}
        self._records: dict[str, Record] = {}
        self._payloads: dict[str, dict[str, object]] = {}
        self._uncollected: list[Record] = []
        self._startup = Startup()
        self._lock: int | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """Options under which another process runs the same benchmarks."""
        wanted = self.wanted
        scene = () if wanted.scene == "room" else ("--scene", wanted.scene)
        device = () if wanted.device == "auto" else ("--device", wanted.device)
        return (*device, *scene, *(("--full",) if wanted.full else ()))

    @property
    def name(self) -> str:
        """Which set of numbers this is: the scene, and `-full` with all parameters."""
        return suite_name(self.wanted.scene, full=self.wanted.full)

    def start_timing(self) -> None:
        """Read policy and baseline; ValueError, with what to do, where they cannot be used."""
        if self.wanted.records_file is None:  # who was started by a comparison is its part
            try:
                self._lock = claim()
            except SetupError as busy:
                pytest.exit(f"ENVIRONMENT: {busy}", returncode=Code.ENVIRONMENT)
        self.timing = TimedRun(self.root, self.wanted, self.device, self.name)
        if self.wanted.record and is_committed(self.root, self.timing.path):
            raise pytest.UsageError(
                f"--benchmark-record does not write into {COMMITTED}: run python -m benchmarks "
                f"baseline record, then accept (or keep this run with --baseline-dir {LOCAL})"
            )

    def adopt(self, items: Sequence[pytest.Item]) -> list[pytest.Item]:
        """The items to run: parameters of `--full` only on request, GPU cases skipped elsewhere."""
        kept: list[pytest.Item] = []
        for item in items:
            if not is_benchmark(item):
                kept.append(item)
            elif self.wanted.full or item.get_closest_marker("full") is None:
                name = benchmark_id(item)
                if not any(f.kind == "missing" and matches(f.target, name)
                           for f in self.faults.faults):  # fmt: skip
                    kept.append(item)
                    self._collected.add(name)
        for item in kept:
            self._skip(item)
        return kept if self.wanted.order is None else shuffled(kept, self.wanted.order)

    def _skip(self, item: pytest.Item) -> None:
        ours = is_benchmark(item)
        uses_plain = "benchmark" in getattr(item, "fixturenames", ())
        if ours and self.device == "cpu" and item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
        if ours and self.wanted.skip:
            item.add_marker(pytest.mark.skip(reason="--benchmark-skip"))
        if self.wanted.only and not ours and not uses_plain:
            item.add_marker(pytest.mark.skip(reason="no benchmark (--benchmark-only)"))

    def enrol(self, items: Iterable[pytest.Item]) -> None:
        """Remember the benchmarks that will run; pytest.UsageError where two share an id."""
        self._ids = {item.nodeid: benchmark_id(item) for item in items if is_benchmark(item)}
        shared = [name for name, count in Counter(self._ids.values()).items() if count > 1]
        if shared:
            nodes = ", ".join(node for node, name in self._ids.items() if name in shared)
            raise pytest.UsageError(f"benchmarks share an id, rename one: {nodes}")

    def __contains__(self, item: object) -> bool:
        return isinstance(item, pytest.Item) and item.nodeid in self._ids

    def before(self) -> None:
        """Before a benchmark's fixtures are made: what they take belongs to its peak memory."""
        if self.timing is not None:
            self._startup.before()
            # Their buffers must lie before the reset.
            _ = self.timing.canaries
            if self._memory is None:
                forget_what_is_loaded()
            self._memory = MemoryWatch(self.device)

    def measure_for(self, request: pytest.FixtureRequest) -> Measure:
        """The `measure` of one benchmark."""
        node = request.node.nodeid
        stage = None
        if self.timing is not None and self._memory is not None:

            def replay(times: Sequence[float]) -> None:
                self._payloads[node] = play_to_pytest_benchmark(request, times)

            stage = Stage(
                self.timing.canaries, self.timing.gpu, self._memory, replay, self.timing.counter
            )
        measure = Measure(Record(self._ids[node], node), self.device, self.faults, stage)
        self._measures[node] = measure
        return measure

    def note(self, item: pytest.Item, outcome: Outcome, reason: str = "") -> None:
        """Keep what a phase of a benchmark came to; the first failure of its phases stands."""
        node = item.nodeid
        measure = self._measures.pop(node, None)
        if measure is not None:
            self._records[node] = measure.record
            if outcome == "passed" and not measure.called:
                outcome, reason = "errored", "never called measure()"
        record = self._records.get(node, Record(self._ids[node], node))
        if record.outcome == "passed":
            record = replace(record, outcome=outcome, reason=reason)
        self._records[node] = record
        if node in self._payloads:
            self._payloads[node].update(dataclasses.asdict(record))

    def note_uncollected(self, file: str, reason: str) -> None:
        """Keep a file whose benchmarks nobody knows: in the records, it is one that has crashed."""
        self._uncollected.append(Record(Path(file).name, file, "errored", reason))

    def session(self) -> Session:
        """Everything measured so far; a benchmark that never ran has no record."""
        if self.timing is None:
            raise RuntimeError("nothing is timed in this session")
        records = tuple(self._records[node] for node in self._ids if node in self._records)
        works = any(record.work for record in records) and self.timing.counter is None
        left_out = tuple(sorted(self._collected - set(self._ids.values())))
        return Session(
            self.timing.machine, self.name, self.timing.commit, (*records, *self._uncollected),
            self.faults.text,
            measured_subject(), measure_ceilings(self.device) if works else {}, self.wanted.order,
            left_out, self._startup.facts(),
        )  # fmt: skip

    def expected(self, config: pytest.Config) -> Collection[str]:
        """Ids of the baseline that this run was asked for."""
        baseline = None if self.timing is None else self.timing.baseline
        if baseline is None:
            return ()
        collected = {*self._ids.values()}
        if is_filtered(config):
            nodes = set(self._ids)
            return [n for n, r in baseline.records.items() if n in collected or r.node in nodes]
        folders = [
            (config.invocation_params.dir / argument).resolve()
            for argument in (config.args or [str(self.root)])
        ]
        return [
            name for name, record in baseline.records.items()
            if any(self._file(record).is_relative_to(folder) for folder in folders)
        ]  # fmt: skip

    def _file(self, record: Record) -> Path:
        return (self.root / record.node.partition("::")[0]).resolve()


def shuffled(items: Sequence[pytest.Item], seed: int) -> list[pytest.Item]:
    """The benchmarks in an order of this seed, whatever order they were found in; then the rest.

    Whoever comes first pays for what all share: in a random order that is nobody's slowness.
    """
    ours = sorted(filter(is_benchmark, items), key=lambda item: item.nodeid)
    random.Random(seed).shuffle(ours)
    return [*ours, *(item for item in items if not is_benchmark(item))]


def is_benchmark(item: pytest.Item) -> bool:
    """Whether a test uses `measure`."""
    return "measure" in getattr(item, "fixturenames", ())


def benchmark_id(item: pytest.Item) -> str:
    """The stable id of a benchmark: its function's name and its parameters."""
    callspec = getattr(item, "callspec", None)
    parameters = {} if callspec is None else callspec.params
    try:
        return stable_id(getattr(item, "originalname", item.name), parameters)
    except ValueError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from error


def is_filtered(config: pytest.Config) -> bool:
    """Whether only a selection was asked for: -k, -m, node ids, --deselect, --lf and the like."""
    names = ("keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf", "stepwise")
    chosen = any(getattr(config.option, name, None) for name in names)
    return chosen or any("::" in argument for argument in config.args)


def play_to_pytest_benchmark(
    request: pytest.FixtureRequest, times: Sequence[float]
) -> dict[str, object]:
    """Replay the times, so that its table and JSON show what we judge; its payload is returned."""
    readings = iter([reading for time in times for reading in (0.0, time)])

    def replay() -> float:
        return next(readings)

    request.node.add_marker(pytest.mark.benchmark(timer=replay))
    benchmark = request.getfixturevalue("benchmark")
    benchmark.pedantic(lambda: None, rounds=len(times))
    return benchmark.extra_info
