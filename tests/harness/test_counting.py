"""Exact counters: CUDA calls by a process of its own, graphs by the compiler itself."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from torch.profiler import ProfilerActivity

from benchmarks.harness.canary import Canaries
from benchmarks.harness.counting import (
    CallCounter,
    Calls,
    by_kind,
    calls_in,
    compiled_graphs,
    cuda_counter,
    graphs_since,
)
from benchmarks.harness.faults import Fault, Faults
from benchmarks.harness.fresh import Fresh
from benchmarks.harness.judging import with_counts
from benchmarks.harness.machine import Machine
from benchmarks.harness.measure import Measure, Stage
from benchmarks.harness.memory import MemoryWatch
from benchmarks.harness.record import Record, Session

OVERHEAD = {"cudaDeviceSynchronize": 2}
Step = Callable[[], object]


def played(*calls: Calls) -> Callable[[Step], Calls]:
    """A profiler that sees its own calls in two empty steps, and these in the next ones."""
    seen: Iterator[Calls] = iter([OVERHEAD, OVERHEAD, *({**OVERHEAD, **call} for call in calls)])

    def profiled(step: Step) -> Calls:
        step()
        return next(seen)

    return profiled


def counting(counter: CallCounter, injected: Faults | None = None) -> Measure:
    """What a counting process hands out."""
    stage = Stage(Canaries("cpu"), None, MemoryWatch("cpu"), lambda times: None, counter)
    return Measure(Record("step", "node"), "cpu", injected or Faults(), stage)


def test_calls_are_summed_up_by_what_they_mean() -> None:
    """Kernels of the runtime and of the driver, graphs, synchronisations, copies."""
    calls = {
        "cudaLaunchKernel": 3, "cuLaunchKernelEx": 2, "cudaGraphLaunch": 1, "cudaMemcpyAsync": 4,
        "cudaStreamSynchronize": 5, "aten::add": 9, "cudaEventRecord": 7,
    }  # fmt: skip
    assert by_kind(calls) == {"launches": 6, "host_syncs": 5, "copies": 4}


def test_the_profiler_s_own_calls_do_not_count() -> None:
    """It synchronises before and after."""
    step = {"cudaLaunchKernel": 3, "cudaDeviceSynchronize": 3}
    counts, notes = CallCounter(played(step, step)).count(lambda: None)
    assert (counts, notes) == ({"launches": 3, "host_syncs": 1, "copies": 0}, [])


def test_count_that_depends_on_the_data_is_left_out() -> None:
    """It would be red by chance."""
    counter = CallCounter(played({"cudaLaunchKernel": 3}, {"cudaLaunchKernel": 4}))
    counts, notes = counter.count(lambda: None)
    assert counts == {"host_syncs": 0, "copies": 0}
    assert notes == ["launches: 3 in one call and 4 in the next: no exact counter"]


def test_counting_process_takes_no_times() -> None:
    """Two calls of warm-up, two that count; slowness that was injected is not the code's."""
    calls: list[int] = []
    slow = Faults("", (Fault("slow", 300.0, "*"),))
    measure = counting(CallCounter(played({"cudaLaunchKernel": 3}, {"cudaLaunchKernel": 3})), slow)
    result = measure(lambda: calls.append(1) or len(calls), before_round=lambda: calls.append(0))
    assert calls == [0, 1] * 4
    assert (result.first, result.value) == (2, 8)
    assert measure.record.metrics == {}
    assert measure.record.counters == {"launches": 3, "host_syncs": 0, "copies": 0}


def test_long_work_is_not_counted() -> None:
    """Four trainings instead of one."""
    with pytest.raises(pytest.skip.Exception, match="not counted"):
        counting(CallCounter(played()))(lambda: 1, rounds=1)


class PlayedFresh(Fresh):
    """A fresh process that counts what it is told."""

    counted: dict[str, Record]

    def count(self, records: object) -> tuple[dict[str, Record], str]:
        """As if the process had ended with a usage error where it gave nothing."""
        return self.counted, "the fresh process ended with exit code 4\nERROR: no CUPTI"


def merged(machine: Machine, *counted: Record) -> Record:
    """A run of one benchmark with these counting records."""
    fresh = PlayedFresh(Path(), ())
    object.__setattr__(fresh, "counted", {record.id: record for record in counted})
    run = Session(machine, "room", "abc", (Record("step", "node", counters={"graphs": 1}),))
    return with_counts(run, fresh).records[0]


def test_counts_join_the_run(toy_machine: Machine) -> None:
    """Beside what the timed process counted itself."""
    found = merged(toy_machine, Record("step", "node", counters={"launches": 7}))
    assert found.counters == {"graphs": 1, "launches": 7}


def test_counting_that_fails_says_why(toy_machine: Machine) -> None:
    """The run keeps its numbers; a baseline that has the counts makes it red."""
    assert merged(toy_machine).notes == ("CUDA calls were not counted: ERROR: no CUPTI",)
    wrong = merged(toy_machine, Record("step", "node", "wrong", "not finite"))
    assert wrong.notes == ("CUDA calls were not counted: step: not finite",)
    assert merged(toy_machine, Record("step", "node", "skipped", "long")).notes == ()


def test_graphs_are_counted_by_the_compiler() -> None:
    """One more for each recompilation; none for eager code."""
    before = compiled_graphs()
    assert graphs_since(before) == {}
    double = torch.compile(lambda x: 2 * x, backend="eager", dynamic=False)
    double(torch.ones(2))
    assert graphs_since(before) == {"graphs": 1, "graph_breaks": 0}
    double(torch.ones(3))
    assert graphs_since(before)["graphs"] == 2


def test_names_in_a_profile_are_those_of_its_table() -> None:
    """Without the table, which takes a second for a step of a training.

    It counts a call within a call of the same name once; CUDA's have none.
    """
    value = torch.ones(3, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
            (value * 2).sin().add(1).mul(3).sum().backward()
    found = calls_in(profiler)
    table = {event.key: event.count for event in profiler.key_averages()}
    names = {"aten::mul", "aten::sin", "aten::add", "aten::ones_like"}
    assert {name: found[name] for name in names} == {name: table[name] for name in names}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_real_gpu_is_counted_exactly() -> None:
    """Three kernels, one synchronisation for the number that is read, one copy for it."""
    counter = cuda_counter()
    value = torch.zeros(8, device="cuda")

    def step() -> float:
        value.add_(1).mul_(2)
        return cast(float, value.sum().item())

    counts, notes = counter.count(step)
    assert (counts, notes) == ({"launches": 3, "host_syncs": 1, "copies": 1}, [])
