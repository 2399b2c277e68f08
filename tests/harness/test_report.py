"""What people read: a red line says what, how much, how sure, which commit, how to repeat it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.machine import Machine
from benchmarks.harness.policy import Entry, MetricRule, Policy
from benchmarks.harness.record import Record, Session
from benchmarks.harness.report import Judgement, lines, show
from benchmarks.harness.verdict import judge

POLICY = Policy(
    {
        "time_s": MetricRule("time", "lower", relative=0.25, confirm=0.15),
        "error_m": MetricRule("accuracy", "lower", relative=0.1),
    },
    (Entry("step", "Ada", ("time_s", "error_m")),),
)
STEP = Record("step", "benchmarks/bench_toy.py::bench_step[8]",
              metrics={"time_s": 0.1, "error_m": 0.05})  # fmt: skip

NO_CEILINGS: Mapping[str, float] = {}


def text(
    machine: Machine,
    now: Record,
    before: Record | None = STEP,
    faults: str = "",
    ceilings: Mapping[str, float] = NO_CEILINGS,
) -> str:
    """The report of a run of one benchmark that repeats itself."""
    run = Session(machine, "room", "def456", (now,), faults, ceilings=ceilings)
    older = dataclasses.replace(machine, versions={"python": "3.10"})
    stored = None
    if before is not None:
        stored = Baseline(older, "room", {"step": before}, {"step": "abc123, 2026-01-01"})
    verdict = judge(run, stored, POLICY, remeasured=[run] * 3)
    judgement = Judgement(verdict, run, stored, POLICY, Path("here/room.json"), ("--full",))
    return "\n".join(line.text for line in lines(judgement))


def test_red_line_explains_itself(toy_machine: Machine) -> None:
    """Without help."""
    slow = dataclasses.replace(STEP, metrics={**STEP.metrics, "time_s": 0.131})
    found = text(toy_machine, slow)
    for part in (
        "step time_s: WORSE, 100 ms -> 131 ms (+31.0%)",
        "+31% in this run; in fresh processes +31%, +31%, +31%",
        "baseline from commit abc123, 2026-01-01; this is commit def456",
        "python -m pytest 'benchmarks/bench_toy.py::bench_step[8]' --benchmark-compare --full",
        "(owner: Ada)",
        "REGRESSION (exit code 1): 1 benchmark, see above (1)",
    ):
        assert part in found


def test_table_has_a_row_for_time_and_one_for_accuracy(toy_machine: Machine) -> None:
    """Benchmark, baseline, now, ratio, verdict."""
    rows = [line.split() for line in text(toy_machine, STEP).splitlines()]
    assert ["benchmark", "baseline", "now", "ratio", "verdict"] in rows
    assert ["step", "100", "ms", "100", "ms", "1.00", "ok"] in rows
    assert ["step", "error_m", "0.05", "m", "0.05", "m", "1.00", "ok"] in rows


def test_row_shows_how_far_the_machine_itself_is(toy_machine: Machine) -> None:
    """A ratio that the machine explains is not read as the code's."""
    stored = dataclasses.replace(STEP, canary={"wall.copy": 1.0})
    now = {"metrics": {**STEP.metrics, "time_s": 0.13}, "canary": {"wall.copy": 1.3}}
    found = text(toy_machine, dataclasses.replace(STEP, **now), stored)
    assert "1.30  ok (machine 1.30x)" in found


def test_capped_interval_is_shown(toy_machine: Machine) -> None:
    """Beside the accuracy that it excuses no more."""
    wide = dataclasses.replace(STEP, intervals={"error_m": 0.05})
    told = "ok (interval 0.05 counts as 0.0167, a third of the value)"
    assert told in text(toy_machine, STEP, wide)


def test_distance_to_the_ceiling_is_shown(toy_machine: Machine) -> None:
    """For what declares its work, beside what this machine reached in the same session."""
    busy = dataclasses.replace(STEP, work={"bytes": 4e7})
    assert "copied" not in text(toy_machine, busy)
    found = text(toy_machine, busy, ceilings={"bytes_per_s": 1e9, "flop_per_s": 2e12})
    assert "1 GB/s copied, 2 TFLOP/s multiplied" in found
    assert "step: 40.0% of the copy bandwidth" in found


def test_slower_but_not_proven_comes_with_a_command(toy_machine: Machine) -> None:
    """Green, named, and how to prove it."""
    slower = dataclasses.replace(STEP, metrics={**STEP.metrics, "time_s": 0.12})
    found = text(toy_machine, slower)
    assert "worse, not proven (+20%, below the margin of 25%)" in found
    assert "on a quiet machine: python -m pytest 'benchmarks/bench_toy.py::bench_step[8]'" in found
    assert "PASS (exit code 0)" in found


def test_changed_versions_are_named(toy_machine: Machine) -> None:
    """They are judged, so they must be seen."""
    assert "python 3.10 -> 3.11" in text(toy_machine, STEP)


def test_first_run_says_so(toy_machine: Machine) -> None:
    """No number looks compared."""
    found = text(toy_machine, STEP, before=None)
    assert "none yet for cpu_toy_x2" in found
    assert "nothing to compare with yet" in found


def test_injected_faults_are_shouted(toy_machine: Machine) -> None:
    """Nobody mistakes such a run for a result."""
    assert "INJECTED FAULTS (BENCHMARK_FAULT): slow:30" in text(toy_machine, STEP, faults="slow:30")


def test_unsteady_numbers_are_marked(toy_machine: Machine) -> None:
    """Never silently accepted."""
    found = text(toy_machine, dataclasses.replace(STEP, warm_up="unsteady"))
    assert "ok ~" in found
    assert "~ 1 unsteady" in found


def test_wrong_answer_shows_its_reason(toy_machine: Machine) -> None:
    """The assertion's own words."""
    wrong = dataclasses.replace(STEP, outcome="wrong", reason="AssertionError: the loss is finite")
    found = text(toy_machine, wrong)
    assert "step: WRONG ANSWER" in found
    assert "the loss is finite" in found


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [("time_s", 1.5, "1.5 s"), ("time_s", 0.00123, "1.23 ms"), ("p99_s", 4e-6, "4 us"),
     ("peak_gpu_bytes", 2.0**30, "1024 MiB"), ("samples_per_s", 40.0, "40 /s"),
     ("median_rotation_deg", 1.234, "1.234 deg"), ("time_s", None, "-"), ("syncs", 3.0, "3"),
     ("time_s", 1e-12, "0.001 ns")],
)  # fmt: skip
def test_values_carry_their_units(metric: str, value: float | None, expected: str) -> None:
    """From the end of the metric's name."""
    assert show(metric, value) == expected


def test_what_is_compared_with_nothing_is_told_with_its_reason(toy_machine: Machine) -> None:
    """Counts of CUDA calls beside a baseline that has none."""
    now = dataclasses.replace(STEP, counters={"launches": 3})
    found = text(toy_machine, now)
    assert "step cuda_calls" in found
    told = "in the baseline, there is no count of them: nothing to compare launches with"
    assert f"not compared (1 of these): {told}" in found
