"""The verdict on made-up summaries: what a step waits for, and the facts that say so."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.profiling.gpu import allocator_of
from rap.profiling.report import text_of
from rap.profiling.summary import Allocator, Operation, Phase, Power, Summary, shares, verdict

BUSY = Summary(
    what="step", device="cuda", items=8, unit="images", step_ms=10.0, profiled_ms=14.0,
    num_steps=5, compute_ms=9.0, copy_ms=0.2, input_ms=0.5, launches=500.0, host_syncs=0.0,
    sync_ms=0.0, copies=2.0, by_device=(Operation("gemm", 20.0, 4.0),),
    by_host=(Operation("aten::mm", 20.0, 1.0),), phases=(Phase("step", 3.0, 2**20),),
    memory=((0.0, 1024),), power=Power(50, 0.9, 400.0, 450.0, 1980.0),
)  # fmt: skip


LAUNCHING = replace(BUSY, compute_ms=1.0)


@pytest.mark.parametrize(
    ("summary", "kind", "fact"),
    [
        (BUSY, "compute-bound", "GPU computes 9 ms of 10 ms, 4 ms of them in gemm"),
        (LAUNCHING, "launch-bound", "500 launches, one every 20 us"),
        (
            replace(LAUNCHING, host_syncs=3.0, sync_ms=1.5),
            "launch-bound",
            "3 synchronisations hold the host 1.5 ms",
        ),
        (replace(LAUNCHING, input_ms=8.0), "input-bound", "takes the host 8 ms of 10 ms"),
        (replace(LAUNCHING, copy_ms=6.0), "transfer-bound", "2 copies take 6 ms of 10 ms"),
    ],
)
def test_verdict_names_the_largest_share(summary: Summary, kind: str, fact: str) -> None:
    """Each kind has its own summary, and says which numbers it rests on."""
    found = verdict(summary)
    assert found.kind == kind
    assert fact in found.evidence[0]


def test_input_that_the_device_does_not_wait_for_is_no_bottleneck() -> None:
    """Workers may fetch for as long as they like while the GPU computes."""
    assert verdict(replace(BUSY, input_ms=9.9)).kind == "compute-bound"


def test_without_gpu_shares_are_of_the_profiled_step() -> None:
    """The profiler slows operations on the host, so their time belongs to the slowed step."""
    summary = replace(BUSY, device="cpu", step_ms=5.0, profiled_ms=20.0)
    assert shares(summary)["compute-bound"] == pytest.approx(9 / 20)
    assert verdict(summary).kind == "launch-bound"
    assert summary.idle == pytest.approx(1 - 9.2 / 20)


@given(st.lists(st.floats(0.0, 100.0), min_size=4, max_size=4))
def test_shares_are_a_whole(times: list[float]) -> None:
    """Whatever overlaps: no share is negative, and together they are the step."""
    step, compute, copy, fetch = times
    summary = replace(BUSY, step_ms=step + 0.1, compute_ms=compute, copy_ms=copy, input_ms=fetch)
    parts = shares(summary)
    assert min(parts.values()) >= 0
    assert sum(parts.values()) == pytest.approx(1)


def test_memory_is_drawn_over_time() -> None:
    """Highest where most was allocated, from the first step's start to the last one's end."""
    memory = ((0.0, 0), (5.0, 50 * 2**20), (10.0, 100 * 2**20))
    line = next(line for line in text_of(replace(BUSY, memory=memory)).splitlines() if "@" in line)
    assert line.startswith("  memory over 10 ms, at most 100.0 MiB: ")
    drawn = line.rpartition(": ")[2]
    assert (drawn[30], drawn[59], len(drawn)) == ("=", "@", 60)


def test_fragmentation_is_what_holds_no_tensor() -> None:
    """Reserved minus allocated at their peaks, and the split blocks; zero before the first use."""
    stats = {
        "allocated_bytes.all.peak": 3 * 2**20,
        "reserved_bytes.all.peak": 4 * 2**20,
        "inactive_split_bytes.all.peak": 2**19,
        "allocated_bytes.all.current": 7,
    }
    found = allocator_of(stats)
    assert found == Allocator(3 * 2**20, 4 * 2**20, 2**19)
    assert found.unused == pytest.approx(0.25)
    assert allocator_of({}).unused == 1.0
    text = text_of(replace(BUSY, allocator=found))
    assert "3.0 MiB  of 4.0 MiB taken (25% without a tensor), 0.5 MiB in split blocks" in text


def test_what_ran_and_the_warm_up_are_shown() -> None:
    """Below the evidence; nothing where there is nothing to say."""
    lines = text_of(replace(BUSY, ran="ran eager", warm_up="warmed up by 9 steps")).splitlines()
    assert lines[3:5] == ["  ran eager", "  warmed up by 9 steps"]
    assert text_of(BUSY).splitlines()[3] == ""


def test_text_shows_verdict_phases_operations_and_power() -> None:
    """What the terminal shows is what the file holds."""
    text = text_of(BUSY)
    assert text.startswith("step: compute-bound (90% of a step)\n")
    for part in ("800.0 images/s", "peak 1.0 MiB", "gemm", "aten::mm", "400 W (at most 450)"):
        assert part in text
