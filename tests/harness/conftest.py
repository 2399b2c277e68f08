"""A clock that only work moves, and a toy machine."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from benchmarks.harness import clock, faults, lock
from benchmarks.harness.machine import Machine
from benchmarks.harness.memory import STEADY, set_heap


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
    folder = tmp_path_factory.getbasetemp()
    monkeypatch.setattr(lock, "home", lambda: folder)


@pytest.fixture(autouse=True)
def steady_heap() -> Iterator[None]:
    """Measuring memory makes malloc exact and slow: not for the tests that come after."""
    yield
    set_heap(STEADY)
