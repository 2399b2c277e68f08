"""A clock that only work moves, a toy machine, and a folder in which sessions are kept."""

import datetime
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import clock, faults, lock, runs
from benchmarks.harness.commands import ab
from benchmarks.harness.judging import CI_VARIABLES
from benchmarks.harness.machine import Machine, this_machine
from benchmarks.harness.memory import STEADY, set_heap
from benchmarks.harness.record import Session, write_session
from benchmarks.harness.sessions import session_path
from tests.harness.ab_stage import Stage
from tests.harness.baseline_toys import DAY, Command, Keep
from tests.harness.toy_trees import make_toy_tree


@dataclass
class VirtualTime:
    """Stands in for the module `time`: every look at it takes a microsecond, work says its own."""

    now: float = 0.0

    def perf_counter(self) -> float:
        """Wall time."""
        self.now += 1e-6
        return self.now

    process_time = perf_counter

    def sleep(self, seconds: float) -> None:
        """Let time pass; also how toy work takes its time."""
        self.now += seconds


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """At nobody's CI, wherever these tests run: a test that wants to be there says so."""
    for name in CI_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def spend(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """For one test the harness measures on a virtual clock; this lets seconds pass on it."""
    virtual = VirtualTime()
    monkeypatch.setattr(clock, "time", virtual)
    monkeypatch.setattr(faults, "time", virtual)
    return virtual.sleep


@pytest.fixture(scope="session")
def toy_machine() -> Machine:
    """Where the toy records come from."""
    return Machine("cpu", "Toy CPU", 2, 2**33, "none", {"python": "3.11"})


@pytest.fixture(autouse=True)
def own_lock(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A comparison that runs beside the tests does not stop them, nor they it."""
    monkeypatch.setenv(lock.VARIABLE, str(tmp_path_factory.getbasetemp()))


@pytest.fixture(autouse=True)
def steady_heap() -> Iterator[None]:
    """Measuring memory makes malloc exact and slow: not for the tests that come after."""
    yield
    set_heap(STEADY)


@pytest.fixture(scope="session")
def here() -> Machine:
    """The machine of these tests, without a GPU: its key is where the commands look."""
    return this_machine("cpu")[0]


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Keeps sessions as `baseline record` does, one minute after the other."""

    def keep(*sessions: Session) -> list[Path]:
        paths = []
        for number, session in enumerate(sessions):
            moment = DAY + datetime.timedelta(minutes=number)
            paths.append(session_path(tmp_path, session, moment))
            write_session(paths[-1], session)
        return paths

    return keep


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command on a tree without history; its exit code and what it printed."""

    def command(action: str, *arguments: str) -> tuple[int, str]:
        code = main(["baseline", action, *arguments, "--device", "cpu"], tmp_path)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return command


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Nothing compared yet; whatever happens, no tree is left behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("BENCHMARK_FAULT", "BENCHMARK_COMMIT"):
        monkeypatch.delenv(name, raising=False)
    stage = Stage(make_toy_tree(tmp_path / "toy", harness=False))
    monkeypatch.setattr(runs, "_launchers", stage.launchers)
    monkeypatch.setattr(ab, "listed", lambda *_: stage.listing)
    yield stage
    assert not any(root.exists() for root in stage.seen)
    assert [*tmp_path.glob("benchmarks-*")] == []  # the lock's own file stays


@pytest.fixture
def thawed() -> Iterator[None]:
    """What a test has frozen is collected again afterwards."""
    yield
    gc.unfreeze()
