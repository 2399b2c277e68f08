"""The fixture `measure`: untimed, timed on a virtual clock, and with a fault injected."""

from collections.abc import Callable

import pytest

from benchmarks.harness.canary import Canaries
from benchmarks.harness.faults import Fault, Faults
from benchmarks.harness.measure import Measure, Stage
from benchmarks.harness.memory import MemoryWatch
from benchmarks.harness.record import Record

Spend = Callable[[float], None]
NONE = Faults()


def untimed(injected: Faults = NONE) -> Measure:
    """What a plain pytest hands out."""
    return Measure(Record("step", "node"), "cpu", injected, None)


def timed(injected: Faults = NONE) -> tuple[Measure, list[float]]:
    """What a timed run hands out, and the times that pytest-benchmark is given."""
    replayed: list[float] = []
    stage = Stage(Canaries("cpu"), None, MemoryWatch("cpu"), replayed.extend)
    return Measure(Record("step", "node"), "cpu", injected, stage), replayed


def test_untimed_runs_the_step_once() -> None:
    """Its answer can be checked; nothing is measured."""
    calls: list[str] = []
    measure = untimed()
    result = measure(lambda: calls.append("step") or 7, before_round=lambda: calls.append("before"))
    assert (result.value, result.first, calls) == (7, 7, ["before", "step"])
    assert not measure.timed
    assert measure.record.metrics == {}


def test_second_call_is_refused() -> None:
    """Two numbers under one id would overwrite each other."""
    measure = untimed()
    measure(lambda: 1)
    with pytest.raises(RuntimeError, match="called twice"):
        measure(lambda: 2)


def test_failed_check_is_an_assertion() -> None:
    """It makes the benchmark a wrong answer, not a crash."""
    result = untimed()(lambda: 3)
    result.check(result.value == 3, "three")
    with pytest.raises(AssertionError, match="four"):
        result.check(result.value == 4, "four")


def test_metrics_and_accuracies_are_recorded() -> None:
    """An accuracy over seeds is its median with an interval."""
    measure = untimed()
    result = measure(lambda: None, counters={"syncs": 2})
    result.metric("loss", 0.5)
    result.counter("launches", 7)
    result.accuracy("error_m", [0.3, 0.1, 0.2])
    record = measure.record
    assert record.metrics == {"loss": 0.5, "error_m": 0.2}
    assert record.intervals["error_m"] > 0
    assert record.counters == {"syncs": 2, "launches": 7}


def test_timed_records_every_clock(spend: Spend) -> None:
    """Location, spread, tails, throughput with its unit, first call, peak memory."""
    measure, replayed = timed()
    measure(lambda: spend(0.25), items=10, unit="samples", rounds=4)
    metrics = measure.record.metrics
    assert metrics["time_s"] == metrics["wall_s"] == pytest.approx(0.25, rel=1e-3)
    assert metrics["samples_per_s"] == pytest.approx(40, rel=1e-3)
    assert set(metrics) >= {"iqr_s", "p95_s", "p99_s", "cpu_s", "first_call_s"}
    assert len(replayed) == measure.record.rounds == 4
    assert set(measure.record.canary) >= {"wall.python", "cpu.copy"}


def test_gpu_clock_is_wall_time_without_a_gpu(spend: Spend) -> None:
    """The record says which clock was read, not which was asked for."""
    measure, _ = timed()
    measure(lambda: spend(0.1), clock="gpu", rounds=2)
    assert measure.record.clock == "wall"
    assert "gpu_s" not in measure.record.metrics


def test_cold_cache_is_declared_and_kept_out_of_the_memory(spend: Spend) -> None:
    """The flushed buffer is the harness's own."""
    measure, _ = timed()
    measure(lambda: spend(0.1), cache="cold", rounds=2)
    assert measure.record.cache == "cold"
    assert measure.record.metrics.get("peak_cpu_bytes", 0) < 32 << 20


def test_slowness_can_be_injected(spend: Spend) -> None:
    """30 % of each call, spun within the span."""
    measure, _ = timed(Faults("", (Fault("slow", 30, "*"),)))
    measure(lambda: spend(0.01), rounds=3)
    assert measure.record.metrics["time_s"] == pytest.approx(0.013, rel=1e-2)


def test_corrupted_answer_reaches_the_check() -> None:
    """A benchmark that checks nothing would stay green, and so be found out."""
    result = untimed(Faults("", (Fault("answer", 0, "step"),)))(lambda: (1, 2.0))
    assert result.value != (1, 2.0)
    assert result.first != (1, 2.0)
