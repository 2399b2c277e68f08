"""The allocator's fragmentation beside the peaks, from made-up statistics."""

from benchmarks.harness.memory import fragmentation


def test_fragmentation_is_of_the_peaks() -> None:
    """What was reserved without a tensor, and what lay in split blocks, by unit in the name."""
    stats = {
        "allocated_bytes.all.peak": 100, "reserved_bytes.all.peak": 160,
        "inactive_split_bytes.all.peak": 20, "reserved_bytes.all.current": 900,
    }  # fmt: skip
    assert fragmentation(stats) == {"unused_gpu_bytes": 60.0, "split_gpu_bytes": 20.0}


def test_a_gpu_without_allocations_has_none() -> None:
    """Statistics are empty before the first tensor."""
    assert fragmentation({}) == {"unused_gpu_bytes": 0.0, "split_gpu_bytes": 0.0}
