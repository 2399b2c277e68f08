"""`python -m benchmarks baseline accept --steady-only`: what was steady is not lost."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.machine import Machine
from benchmarks.harness.verdict import Code
from tests.harness.baseline_toys import STEP, Command, Keep, accepted, run, times

HOT = dataclasses.replace(times(9.0), id="hot", invalid=("hw_thermal",))


def test_steady_benchmarks_can_be_accepted_without_the_unsteady(
    tmp_path: Path, here: Machine, keep: Keep, command: Command
) -> None:
    """One disturbed benchmark loses itself, not what was measured beside it; each is named."""
    keep(run(here, STEP, HOT, dataclasses.replace(STEP, id="cold", warm_up="unsteady")))
    code, printed = command("accept")
    assert (code, accepted(tmp_path, here)) == (Code.ENVIRONMENT, None)
    assert "--steady-only leaves out what is named here, and accepts 1" in printed
    code, printed = command("accept", "--steady-only")
    assert (code, "accepted 1 benchmarks of 1 sessions" in printed) == (0, True), printed
    for name, why in (("hot", "hw_thermal"), ("cold", "unsteady (")):
        assert f"ENVIRONMENT: {name}: {why}" in printed
        assert f"left out as unsteady: {name}: nothing is stored, so a loss" in printed
    stored = accepted(tmp_path, here)
    assert stored is not None
    assert set(stored.records) == {"step"}


@pytest.mark.parametrize("others", [(), ("--keep-others",), ("--drop-others",)])
def test_what_is_stored_of_an_unsteady_benchmark_stays(
    tmp_path: Path, here: Machine, keep: Keep, command: Command, others: tuple[str, ...]
) -> None:
    """Whatever happens to those that were not measured at all: it was measured, badly."""
    keep(run(here, STEP, dataclasses.replace(STEP, id="hot")))
    assert command("accept")[0] == 0
    (file,) = keep(run(here, times(2.0), HOT, commit="def456"))
    code, printed = command("accept", str(file), "--steady-only", *others)
    assert (code, "accepted 1 benchmarks" in printed) == (0, True), printed
    assert "left out as unsteady: hot: keeps the numbers from abc123, 20" in printed
    stored = accepted(tmp_path, here)
    assert stored is not None
    assert {name: record.metrics["time_s"] for name, record in stored.records.items()} == {
        "step": 2.0, "hot": 1.0,
    }  # fmt: skip
    assert stored.origins["hot"].startswith("abc123")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"commit": "abc123+dirty"}, Code.USAGE),
        ({"faults": "slow:30"}, Code.USAGE),
        ({"records": (HOT, dataclasses.replace(STEP, outcome="wrong"))}, Code.ENVIRONMENT),
        ({"records": (HOT, dataclasses.replace(STEP, outcome="errored"))}, Code.ENVIRONMENT),
        ({"records": (HOT, times(float("inf")))}, Code.ENVIRONMENT),
        ({"records": (HOT,)}, Code.ENVIRONMENT),
    ],
)
def test_steady_only_excuses_nothing_else(
    tmp_path: Path, here: Machine, keep: Keep, command: Command,
    change: dict[str, Any], code: Code,
) -> None:  # fmt: skip
    """A wrong answer, a crash, a dirty tree; and where nothing was steady there is no baseline."""
    keep(dataclasses.replace(run(here, STEP, HOT), **change))
    found, printed = command("accept", "--steady-only")
    assert (found, "refused:" in printed) == (code, True), printed
    assert "--steady-only leaves out" not in printed
    assert accepted(tmp_path, here) is None


def test_steady_only_still_asks_about_what_was_not_measured(
    here: Machine, keep: Keep, command: Command
) -> None:
    """It speaks for unsteady benchmarks alone."""
    keep(run(here, STEP, dataclasses.replace(STEP, id="other")))
    assert command("accept")[0] == 0
    (file,) = keep(run(here, STEP, HOT, commit="def456"))
    code, printed = command("accept", str(file), "--steady-only")
    assert (code, "has what was not measured: other" in printed) == (Code.COVERAGE, True), printed


def test_benchmark_that_also_crashed_is_not_left_out(
    tmp_path: Path, here: Machine, keep: Keep, command: Command
) -> None:
    """Disturbed in two sessions, crashed in the third: the crash stays a reason to refuse."""
    crashed = dataclasses.replace(HOT, outcome="errored", reason="boom")
    keep(*(run(here, STEP, record) for record in (HOT, HOT, crashed)))
    code, printed = command("accept", "--steady-only")
    assert (code, "COVERAGE: hot: errored (boom)" in printed) == (Code.ENVIRONMENT, True), printed
    assert accepted(tmp_path, here) is None
