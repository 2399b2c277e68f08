"""What a process spends beside its rounds: spent once, or not at all."""

import gc
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.harness import canary, memory, suite
from benchmarks.harness.canary import Canaries
from benchmarks.harness.faults import Faults
from benchmarks.harness.fresh import QUIET
from benchmarks.harness.options import Wanted
from benchmarks.harness.suite import Suite, TimedRun


def test_recent_song_serves_the_next_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one after a benchmark is the one before the next, unless that took long to prepare."""
    now = [100.0]
    monkeypatch.setattr(canary, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    choir = Canaries("cpu")
    first = choir.before()
    after = choir.sing()
    assert first is not after
    now[0] += 0.9 * canary.RECENT_S
    assert choir.before() is after
    now[0] += 0.2 * canary.RECENT_S
    assert choir.before() is not after


@pytest.mark.usefixtures("thawed")
@pytest.mark.parametrize("keeps", [memory.forget_what_is_loaded, memory.give_back])
def test_what_is_loaded_is_not_collected_again(keeps: Callable[[], None]) -> None:
    """Before each benchmark there is a collection: 0.15 s over all that torch and pytest hold."""
    keeps()
    assert gc.get_freeze_count() > 10_000


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_looked_for_while_the_compiler_is_imported(enabled: bool) -> None:
    """Collections are off within, also where it fails; afterwards they are as they were."""
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        seen = []
        with suppress(ImportError), memory.uncollected():
            seen.append(gc.isenabled())
            raise ImportError
        assert [*seen, gc.isenabled()] == [False, enabled]
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.usefixtures("thawed")
def test_suite_forgets_what_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first benchmark; what the benchmarks make is collected as ever."""
    calls: list[None] = []
    monkeypatch.setattr(suite, "forget_what_is_loaded", lambda: calls.append(None))
    watched = Suite(Path(), cast(Wanted, None), "cpu", Faults())
    timing: Any = SimpleNamespace(canaries=None)
    watched.timing = cast(TimedRun, timing)
    watched.before()
    watched.before()
    assert len(calls) == 1


LAST = """
import sys

def pytest_unconfigure():
    print("imported" if "hypothesis" in sys.modules else "never imported")
"""


def test_fresh_processes_do_not_load_hypothesis(tmp_path: Path) -> None:
    """Its plugin imports it for the summary: as long as four benchmarks take."""
    (tmp_path / "conftest.py").write_text(LAST, encoding="utf-8")
    (tmp_path / "test_it.py").write_text("def test_it(): pass", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", *QUIET, "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "never imported" in done.stdout) == (0, True), done.stdout
