"""The harness on a real GPU: both clocks, allocator peaks, NVML, and injected GPU slowness."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.harness.canary import Canaries
from benchmarks.harness.clock import BUDGETS, Loop, cuda_clock, take
from benchmarks.harness.faults import Fault, Faults
from benchmarks.harness.machine import slug, this_machine
from benchmarks.harness.measure import Measure, Stage
from benchmarks.harness.memory import MemoryWatch
from benchmarks.harness.record import ClockName, Record
from benchmarks.harness.replaying import NUM_LAUNCHED, NUM_TRIALS

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


NONE = Faults()


def measured(
    step: Callable[[], object], clock: ClockName = "gpu", injected: Faults = NONE
) -> Record:
    """The record of a step on the GPU, as a timed run takes it."""
    _, gpu = this_machine("cuda")
    canaries = Canaries("cuda")
    stage = Stage(canaries, gpu, MemoryWatch("cuda"), lambda times: None)
    measure = Measure(Record("step", "node"), "cuda", injected, stage)
    measure(step, clock=clock)
    return measure.record


@pytest.fixture
def copies() -> Callable[[], torch.Tensor]:
    """About 3 ms of copying on a fast GPU; matrix work would slow down as it heats up."""
    source, target = torch.ones(2, 1 << 28, device="cuda")

    def work() -> torch.Tensor:
        for _ in range(6):
            target.copy_(source)
        return target

    return work


def test_both_clocks_are_stored(copies: Callable[[], torch.Tensor]) -> None:
    """The GPU span is inside the wall time, and the declared one is gated."""
    metrics = measured(copies).metrics
    assert 0 < metrics["gpu_s"] <= metrics["wall_s"]
    assert metrics["time_s"] == metrics["gpu_s"]
    metrics = measured(copies, "wall").metrics
    assert metrics["time_s"] == metrics["wall_s"] > metrics["gpu_s"]


def test_a_replay_times_kernels_alone() -> None:
    """The same results, 200 launches in one: the host no longer sets the pace."""
    _, gpu = this_machine("cuda")
    number = torch.zeros((), device="cuda")
    calls: list[int] = []

    def step() -> torch.Tensor:
        calls.append(1)
        found = number
        for _ in range(200):
            found = found + 1
        return found

    records = {}
    for replay in (False, True):
        stage = Stage(Canaries("cuda"), gpu, MemoryWatch("cuda"), lambda times: None)
        measure = Measure(Record("step", "node"), "cuda", NONE, stage)
        calls.clear()
        result = measure(step, clock="gpu", replay=replay)
        assert float(result.value) == 200
        assert (len(calls) == 2 * NUM_TRIALS + NUM_LAUNCHED + 1) is replay
        records[replay] = measure.record
    assert records[True].metrics["launched_s"] > records[True].metrics["gpu_s"]
    assert records[True].metrics["gpu_s"] < records[False].metrics["gpu_s"]


def test_short_kernels_are_batched() -> None:
    """One span per call, one synchronisation for all of them."""
    small = torch.zeros(1024, device="cuda")
    record = measured(lambda: small.add_(1))
    assert record.rounds > 100
    assert record.metrics["gpu_s"] < 200e-6


def test_peak_is_what_the_step_allocates() -> None:
    """64 MiB taken and freed, on top of what was there."""
    held = torch.zeros(32 << 20, dtype=torch.uint8, device="cuda")
    record = measured(lambda: torch.zeros(16 << 20, device="cuda").sum())
    assert held.numel()
    assert record.metrics["peak_gpu_bytes"] == pytest.approx(64 << 20, abs=1 << 20)
    assert {"unused_gpu_bytes", "split_gpu_bytes"} <= set(record.metrics)


def test_more_memory_can_be_injected() -> None:
    """20 % above the peak."""
    fault = Faults("", (Fault("memory", 20, "*"),))
    record = measured(lambda: torch.zeros(16 << 20, device="cuda").sum(), injected=fault)
    assert record.metrics["peak_gpu_bytes"] == pytest.approx(1.2 * (64 << 20), rel=0.05)


def test_gpu_slowness_can_be_injected(copies: Callable[[], torch.Tensor]) -> None:
    """30 % more on the GPU's clock, by a spinning kernel."""
    plain = measured(copies).metrics["gpu_s"]
    fault = Faults("", (Fault("slow", 30, "*"),))
    slow = measured(copies, injected=fault).metrics["gpu_s"]
    assert slow / plain == pytest.approx(1.3, abs=0.1)


def test_gpu_is_watched(copies: Callable[[], torch.Tensor]) -> None:
    """NVML's facts are recorded, and our own process is not taken for a foreign one."""
    machine, gpu = this_machine("cuda")
    name = torch.cuda.get_device_properties(0).name
    assert machine.gpu == name
    assert machine.key.startswith(slug(name))
    if gpu is None:
        pytest.skip("NVML is not available here")
    record = measured(copies)
    assert record.facts["sm_clock_mhz"] > 0
    assert not [reason for reason in record.invalid if "process" in reason]


def test_looks_find_the_gpu_at_work(copies: Callable[[], torch.Tensor]) -> None:
    """Work is still queued when a look begins, and a look's clock is not an idle one."""
    idle: list[bool] = []
    loop = Loop(copies, cuda_clock, look=lambda: idle.append(torch.cuda.current_stream().query()))
    take(loop, BUDGETS["cuda"], None, lambda: None)
    assert idle
    assert not any(idle)


def test_gpu_canaries_have_gpu_spans() -> None:
    """Matrix copies and copy on the GPU, the Python loop on the host."""
    names = set(Canaries("cuda").sing())
    assert names >= {"gpu.matmul", "gpu.copy", "wall.matmul", "wall.python"}
    assert "gpu.python" not in names
