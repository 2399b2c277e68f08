"""Numbers from made-up traces, as a GPU and a CPU would write them."""

from typing import Any

import pytest

from rap.profiling.trace import BACKWARD, PHASE, STEP, UPDATE, merged, read_trace, without


def event(cat: str, name: str, ts: float, dur: float, **more: object) -> dict[str, Any]:
    """One span of a Chrome trace, in microseconds."""
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": 1, **more}


def memory(ts: float, total: int, kind: int) -> dict[str, Any]:
    """An allocation, after which `total` bytes are allocated."""
    args = {"Total Allocated": total, "Device Type": kind}
    return {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "ts": ts, "args": args}


STEPS = [
    event("user_annotation", STEP, 1000, 1000),
    event("user_annotation", PHASE + "batch", 1000, 300),
    event("user_annotation", PHASE + "optimise", 1300, 700),
    event("user_annotation", STEP, 2000, 1000),
    event("user_annotation", PHASE + "batch", 2000, 300),
    event("user_annotation", PHASE + "optimise", 2300, 700),
]


def test_gpu_time_is_the_union_of_kernels() -> None:
    """Kernels side by side count once, copies under kernels not at all."""
    events = [
        *STEPS,
        event("kernel", "a", 1100, 400),
        event("kernel", "b", 1300, 400),
        event("gpu_memcpy", "Memcpy HtoD", 1600, 300),
        event("gpu_memset", "Memset", 2000, 100),
        event("kernel", "before the window", 100, 500),
    ]
    trace = read_trace(events, on_gpu=True, input_phases=["batch"])
    assert trace.num_steps == 2
    assert trace.step_ms == pytest.approx(1.0)
    assert trace.compute_ms == pytest.approx((600 + 100) / 2 / 1e3)
    assert trace.copy_ms == pytest.approx(200 / 2 / 1e3)
    assert trace.input_ms == pytest.approx(0.3)
    assert [(found.name, found.ms) for found in trace.by_device] == [("a", 0.2), ("b", 0.2)]


def test_gpu_work_after_the_host_counts() -> None:
    """The device ends after the host has launched everything."""
    trace = read_trace([*STEPS, event("kernel", "late", 2900, 1100)], True, [])
    assert trace.step_ms == pytest.approx(1.5)
    assert trace.compute_ms == pytest.approx(0.55)


def test_cuda_calls_are_counted_by_what_they_mean() -> None:
    """A replayed graph is a launch; waiting has a duration."""
    calls = ["cudaLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMalloc"]
    events = [
        *STEPS,
        *(event("cuda_runtime", name, 1400 + i, 1) for i, name in enumerate(calls)),
        event("cuda_driver", "cuLaunchKernelEx", 1500, 1),
        event("cuda_runtime", "cudaStreamSynchronize", 1600, 40),
    ]
    trace = read_trace(events, on_gpu=True, input_phases=[])
    assert (trace.launches, trace.copies, trace.host_syncs) == (1.5, 0.5, 0.5)
    assert trace.sync_ms == pytest.approx(0.02)


def test_host_operations_count_without_what_they_call() -> None:
    """Own times add up; called from Python is what nothing else called."""
    events = [
        *STEPS,
        event("cpu_op", "aten::linear", 1400, 100),
        event("cpu_op", "aten::addmm", 1410, 80),
        event("cpu_op", "aten::copy_", 1420, 30),
        event("cpu_op", "aten::linear", 2400, 100),
    ]
    trace = read_trace(events, on_gpu=False, input_phases=["batch"])
    own = {found.name: (found.calls, found.ms) for found in trace.by_host}
    assert own["aten::linear"] == (1.0, pytest.approx(0.06))
    assert own["aten::addmm"] == (0.5, pytest.approx(0.025))
    assert trace.launches == 1.0
    assert trace.compute_ms == pytest.approx((200 - 30) / 2 / 1e3)
    assert trace.copy_ms == pytest.approx(0.015)


def test_operations_of_the_input_are_no_computation() -> None:
    """Without a GPU, gathering a batch is input, also where it runs torch operations."""
    events = [*STEPS, event("cpu_op", "aten::index", 1100, 100)]
    trace = read_trace(events, on_gpu=False, input_phases=["batch"])
    assert trace.compute_ms == 0
    assert trace.input_ms == pytest.approx(0.3)


def test_peaks_belong_to_phases() -> None:
    """A phase's peak counts what was allocated as it began; other devices' memory does not."""
    events = [
        *STEPS,
        memory(1100, 10, kind=1),
        memory(1400, 50, kind=1),
        memory(1500, 20, kind=1),
        memory(1600, 999, kind=0),
        memory(2100, 30, kind=1),
        event("cpu_op", f"{BACKWARD}: MulBackward0", 1390, 20),
        event("user_annotation", f"{UPDATE}#AdamW.step", 1450, 100),
    ]
    trace = read_trace(events, on_gpu=True, input_phases=["batch"])
    peaks = {phase.name: phase.peak_bytes for phase in trace.phases}
    expected = {"batch": 30, "optimise": 50, "of which backward": 50, "of which update": 50}
    assert peaks == expected
    assert (0.4, 50) in [(pytest.approx(ms), size) for ms, size in trace.memory]


def test_a_trace_without_steps_is_refused() -> None:
    """Numbers of nothing would all be zero."""
    with pytest.raises(ValueError, match="nothing was profiled"):
        read_trace([event("kernel", "a", 0, 1)], True, [])


def test_spans_merge_and_subtract() -> None:
    """The two operations that all times are made of."""
    assert merged([(5.0, 6.0), (1.0, 3.0), (2.0, 4.0)]) == [(1, 4), (5, 6)]
    assert merged([(1.0, 2.0), (3.0, 4.0)], gap=1.0) == [(1, 4)]
    assert without([(0.0, 10.0)], [(2.0, 3.0), (5.0, 20.0)]) == [(0, 2), (3, 5)]
    assert without([(0.0, 1.0), (4.0, 5.0)], [(0.0, 1.0)]) == [(4, 5)]
