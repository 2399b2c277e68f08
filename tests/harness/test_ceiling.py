"""Ceilings of the machine, and how far a benchmark is from them."""

import pytest
import torch

from benchmarks.harness.ceiling import measure_ceilings, shares
from benchmarks.harness.faults import Faults
from benchmarks.harness.measure import Measure
from benchmarks.harness.record import Record

CEILINGS = {"bytes_per_s": 100.0, "flop_per_s": 1000.0}


def record(clock: str, **work: float) -> Record:
    """A benchmark of half a second on some clock."""
    return Record("step", "node", metrics={clock: 0.5}, work=work)


def test_share_is_the_rate_over_the_ceiling() -> None:
    """25 bytes in half a second are half of 100 bytes per second."""
    assert shares(record("time_s", bytes=25.0), CEILINGS) == {"bytes": 0.5}
    assert shares(record("time_s", bytes=5.0, flop=250.0), CEILINGS) == {"bytes": 0.1, "flop": 0.5}


def test_gpu_span_counts_where_there_is_one() -> None:
    """The ceilings are spans, too."""
    both = Record("step", "node", metrics={"time_s": 5.0, "gpu_s": 0.5}, work={"bytes": 25.0})
    assert shares(both, CEILINGS) == {"bytes": 0.5}


def test_nothing_declared_or_measured_is_no_share() -> None:
    """Neither zero nor an error."""
    assert shares(record("time_s"), CEILINGS) == {}
    assert shares(record("other_s", bytes=1.0), CEILINGS) == {}
    assert shares(record("time_s", bytes=1.0), {}) == {}


def test_declared_work_is_recorded() -> None:
    """What was not declared is not there."""
    measure = Measure(Record("step", "node"), "cpu", Faults(), None)
    measure(lambda: 1, moves_bytes=8)
    assert measure.record.work == {"bytes": 8.0}


@pytest.mark.parametrize("name", ["bytes_per_s", "flop_per_s"])
def test_this_machine_has_ceilings(device: torch.device, name: str) -> None:
    """Of the order of any computer of this century; a GPU copies more than a host."""
    low = {"cpu": 1e8, "cuda": 1e11}[device.type]
    assert low < measure_ceilings(device.type)[name] < 1e16
