"""The rule for one metric: margins, canaries, confirmation, and what makes numbers incomparable."""

from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.harness.baseline import Noise
from benchmarks.harness.policy import MetricRule
from benchmarks.harness.record import Record
from benchmarks.harness.rules import Case, Status, judge_metric, machine_slower

TIME = MetricRule("time", "lower", relative=0.25, confirm=0.15)
RATE = MetricRule("time", "higher", relative=0.25, confirm=0.15)
GPU_MEMORY = MetricRule("memory", "lower", relative=0.01, absolute=16.0)
HOST_MEMORY = MetricRule("memory", "lower", relative=0.1, absolute=16.0, confirm=0.1)
ERROR = MetricRule("accuracy", "lower", relative=0.1)
RECALL = MetricRule("accuracy", "higher", absolute=0.05)
CALM = {"wall.python": 1.0, "wall.copy": 1.0, "cpu.python": 1.0}


def record(
    value: float,
    metric: str = "x_s",
    canary: Mapping[str, float] = CALM,
    **fields: Any,  # noqa: ANN401 (any field of a record)
) -> Record:
    """A record with one metric, measured beside calm canaries."""
    return Record("step", "node", metrics={metric: value}, canary=canary, **fields)


def status(rule: MetricRule, before: Record, now: Record, *again: Record, **case: bool) -> Status:
    """The status that a metric gets."""
    metric = next(iter(now.metrics))
    same = case.get("same_runtime", True)
    found = judge_metric(Case(metric, rule, before, now, again, same))
    assert found is not None
    return found.status


@pytest.mark.parametrize(
    ("rule", "before", "now", "expected"),
    [
        (TIME, 1.0, 1.09, Status.OK),
        (TIME, 1.0, 1.24, Status.NOT_PROVEN),
        (TIME, 1.0, 1.26, Status.SUSPECT),
        (TIME, 1.0, 0.7, Status.BETTER),
        (RATE, 100.0, 70.0, Status.SUSPECT),
        (RATE, 100.0, 130.0, Status.BETTER),
        (GPU_MEMORY, 1000.0, 1016.0, Status.OK),
        (GPU_MEMORY, 1000.0, 1017.0, Status.WORSE),
        (GPU_MEMORY, 10000.0, 10099.0, Status.OK),
        (GPU_MEMORY, 10000.0, 10101.0, Status.WORSE),
        (HOST_MEMORY, 1000.0, 1200.0, Status.SUSPECT),
        (ERROR, 0.1, 0.109, Status.OK),
        (ERROR, 0.1, 0.111, Status.WORSE),
        (ERROR, 0.1, 0.05, Status.BETTER),
        (RECALL, 0.9, 0.86, Status.OK),
        (RECALL, 0.9, 0.84, Status.WORSE),
        (RECALL, 0.9, 1.0, Status.BETTER),
    ],
)
def test_margins(rule: MetricRule, before: float, now: float, expected: Status) -> None:
    """Worse by more than max(relative, absolute) is too much, in the rule's direction only."""
    assert status(rule, record(before), record(now)) is expected


@pytest.mark.parametrize(
    ("rule", "value"),
    [(TIME, 0.0), (TIME, float("nan")), (ERROR, float("inf")), (ERROR, 0.0), (GPU_MEMORY, -1.0)],
)
def test_impossible_values_are_refused(rule: MetricRule, value: float) -> None:
    """An error of exactly zero, a time of nothing, NaN: no measurement at all."""
    assert status(rule, record(1.0), record(value)) is Status.IMPOSSIBLE


def test_stored_interval_widens_the_margin() -> None:
    """Seeds that differ by 30 % cannot prove 20 %."""
    before = record(0.1, intervals={"x_s": 0.03})
    assert status(ERROR, before, record(0.12)) is Status.OK
    assert status(ERROR, before, record(0.14)) is Status.WORSE


@pytest.mark.parametrize(
    ("rule", "before", "interval", "now", "expected"),
    [
        (RECALL, 0.31, 0.92, 0.0, Status.WORSE),
        (RECALL, 0.31, 0.92, 0.21, Status.OK),
        (ERROR, 14.7, 14.9, 29.0, Status.WORSE),
        (ERROR, 14.7, 14.9, 19.5, Status.OK),
        (ERROR, 14.7, 14.9, 9.7, Status.BETTER),
    ],
)
def test_interval_as_wide_as_its_value_is_capped(
    rule: MetricRule, before: float, interval: float, now: float, expected: Status
) -> None:
    """It would excuse any loss: at most a third of the value counts, and that is told."""
    metric = Case("x_s", rule, record(before, intervals={"x_s": interval}), record(now), (), True)
    found = judge_metric(metric)
    assert found is not None
    assert found.status is expected
    assert f"interval {interval} counts as" in found.detail
    assert "a third of the value" in found.detail


def known(log_sd: float, sessions: int = 5) -> Noise:
    """Noise of the metric of these tests."""
    return Noise(sessions, {"x_s": log_sd})


def judged(now: Record, noise: Noise | None, *again: Record) -> Status:
    """The status of a time in a suite of thirty."""
    found = judge_metric(Case("x_s", TIME, record(1.0), now, again, True, noise, 30))
    assert found is not None
    return found.status


@pytest.mark.parametrize(
    ("now", "noise", "expected"),
    [
        (1.14, known(0.001), Status.NOT_PROVEN),  # within 15 %
        (1.18, known(0.001), Status.WORSE),
        (1.18, known(0.05), Status.NOT_PROVEN),  # within what one more session could show
        (1.30, known(0.05), Status.SUSPECT),
        (1.18, known(0.001, sessions=4), Status.NOT_PROVEN),  # too few to know
        (1.30, None, Status.SUSPECT),
        (1.60, known(200.0), Status.SUSPECT),
    ],
)
def test_gross_slowdown_needs_one_fresh_process_where_the_noise_is_known(
    now: float, noise: Noise | None, expected: Status
) -> None:
    """Beyond the prediction interval of five sessions and beyond 15 %; else three, beyond 25 %."""
    assert judged(record(now), noise, record(now)) is expected


def test_gross_slowdown_that_does_not_repeat_is_no_slowdown() -> None:
    """One disturbed process is enough to be suspect, and not enough to be red."""
    assert judged(record(1.18), known(0.001)) is Status.SUSPECT
    assert judged(record(1.18), known(0.001), record(1.0)) is Status.NOT_PROVEN


def test_gross_slowdown_beside_a_busy_canary_is_no_proof() -> None:
    """It takes the longer way of three fresh processes."""
    busy = record(1.6, canary={**CALM, "wall.copy": 1.4})
    assert judged(busy, known(0.001), record(1.6)) is Status.SUSPECT
    assert judged(record(1.6), known(0.001), busy) is Status.NOT_PROVEN


def test_slower_machine_excuses() -> None:
    """All canaries 30 % slower: 1.3 s is what 1 s was."""
    tired = record(1.3, canary=dict.fromkeys(CALM, 1.3))
    assert status(TIME, record(1.0), tired) is Status.OK


def test_faster_machine_never_accuses() -> None:
    """A canary that was disturbed while the baseline was recorded must not alarm for ever."""
    disturbed = record(1.0, canary=dict.fromkeys(CALM, 1.4))
    assert status(TIME, disturbed, record(1.05)) is Status.OK


@pytest.mark.parametrize(("canary", "now"), [(1.7, 2.0), (8.0, 7.0), (1.6, 9.0)])
def test_foreign_machine_excuses_nothing(canary: float, now: float) -> None:
    """Worse as read, and canaries beyond 1.5x: repeated, then INVALID."""
    other = record(now, canary=dict.fromkeys(CALM, canary))
    assert status(TIME, record(1.0), other) is Status.SUSPECT
    assert status(TIME, record(1.0), other, other, other) is Status.INVALID


@pytest.mark.parametrize(("canary", "now"), [(1.6, 1.0), (3.0, 1.1), (0.1, 0.2), (0.1, 1.05)])
def test_what_is_not_worse_needs_no_excuse(canary: float, now: float) -> None:
    """On a busy machine, too; and a faster machine's time is no better code."""
    other = record(now, canary=dict.fromkeys(CALM, canary))
    assert status(TIME, record(1.0), other) is Status.OK


def test_foreign_moment_is_repeated_and_then_judged() -> None:
    """The first fresh process on the baseline's machine counts, as if it had been the run's."""
    other = record(2.0, canary=dict.fromkeys(CALM, 1.7))
    assert status(TIME, record(1.0), other, record(1.0)) is Status.OK


def test_reason_tells_how_far_the_machine_is() -> None:
    """A reader sees the factor."""
    other = record(2.0, canary=dict.fromkeys(CALM, 1.7))
    found = judge_metric(Case("x_s", TIME, record(1.0), other, (other, other), True))
    assert found is not None
    assert "1.70x slower" in found.detail


@pytest.mark.parametrize(
    ("clock", "now", "expected"),
    [
        ("wall", {"wall.a": 2.0, "wall.b": 2.0}, (2.0, 2.0)),
        ("wall", {"wall.a": 4.0, "wall.b": 1.0}, (2.0, 4.0)),
        ("wall", {"wall.a": 0.5, "wall.b": 0.5}, (1.0, 1.0)),
        ("gpu", {"wall.a": 2.0}, (1.0, 1.0)),
        ("wall", {}, (1.0, 1.0)),
    ],
)
def test_canaries_are_compared_on_their_clock(
    clock: str, now: Mapping[str, float], expected: tuple[float, float]
) -> None:
    """Mean and worst slowness, at least 1; no canary in common: no excuse."""
    base = Record("a", "n", canary={"wall.a": 1.0, "wall.b": 1.0})
    found = machine_slower(clock, base, Record("a", "n", canary=now))
    assert found == pytest.approx(expected)


def test_busy_machine_proves_nothing() -> None:
    """A fresh process beside disturbed canaries cannot confirm a slowdown."""
    slow, busy = record(2.0), record(2.0, canary={**CALM, "wall.copy": 1.4})
    assert status(TIME, record(1.0), slow, slow, slow, busy) is Status.NOT_PROVEN
    assert status(TIME, record(1.0), slow, slow, slow, slow) is Status.WORSE


def test_processor_time_is_proof_on_a_busy_machine() -> None:
    """Neighbours do not stretch it."""
    busy = record(2.0, "cpu_s", canary={**CALM, "wall.copy": 3.0})
    assert status(TIME, record(1.0, "cpu_s"), busy, busy, busy, busy) is Status.WORSE


def test_fresh_process_without_the_number_confirms_nothing() -> None:
    """NaN or absent is not slower."""
    slow = record(2.0)
    assert status(TIME, record(1.0), slow, record(float("nan"))) is Status.NOT_PROVEN


def test_invalid_measurement_is_repeated_and_then_judged() -> None:
    """The first valid one counts, as if it had been the run's."""
    hot = record(9.0, invalid=("hw_thermal",))
    assert status(TIME, record(1.0), hot) is Status.SUSPECT
    assert status(TIME, record(1.0), hot, record(1.0)) is Status.OK
    assert status(TIME, record(1.0), hot, hot, hot) is Status.INVALID


def test_another_container_runtime_makes_wall_times_incomparable() -> None:
    """They are shown; GPU spans are still judged."""
    slow = record(2.0, "time_s")
    assert status(TIME, record(1.0, "time_s"), slow, same_runtime=False) is Status.NOT_GATED
    spans = [record(value, "time_s", clock="gpu") for value in (1.0, 2.0)]
    assert status(TIME, *spans, same_runtime=False) is Status.SUSPECT


def test_changed_declaration_needs_a_new_baseline() -> None:
    """Wall time against GPU span, or cold against warm, is no comparison."""
    assert status(TIME, record(1.0), record(1.0, cache="cold")) is Status.STALE
    assert status(TIME, record(1.0), record(1.0, clock="gpu")) is Status.STALE


def test_metric_in_neither_is_not_judged() -> None:
    """GPU memory on a CPU is nobody's finding."""
    empty = Record("step", "node")
    assert judge_metric(Case("peak_gpu_bytes", GPU_MEMORY, empty, empty, (), True)) is None


def test_missing_metric_says_why() -> None:
    """The harness's note is the explanation."""
    now = Record("step", "node", notes=("x_s: the kernel does not tell",))
    found = judge_metric(Case("x_s", HOST_MEMORY, record(1.0), now, (), True))
    assert found is not None
    assert (found.status, found.detail) == (Status.MISSING, "x_s: the kernel does not tell")
