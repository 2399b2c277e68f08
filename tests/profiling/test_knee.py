"""The knee of the batch-size curve: by rule, measured on tiny steps, and where memory ends."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rap.profiling import knee, knee_report, window
from rap.profiling.knee import Curve, KneeError, Point, batch_curve
from rap.profiling.window import Job, Part


def point(batch_size: int, step_ms: float) -> Point:
    """A measurement of a step with three images for each photograph."""
    return Point(batch_size, 3 * batch_size, step_ms, 2**20 * batch_size, settled=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are timed for a moment."""
    monkeypatch.setattr(window, "_TIMED_S", 0.0)


def job_of(size: int) -> Job:
    """A step whose memory grows with the batch."""

    def work() -> torch.Tensor:
        return torch.ones(size, 2**18).sum()

    return Job("sums", torch.device("cpu"), (Part("step", work),), 3 * size, "images")


def test_knee_is_the_smallest_batch_near_the_best() -> None:
    """Twice the batch in hardly more time pays; in nearly twice the time it does not."""
    points = [point(4, 10.0), point(8, 12.0), point(16, 20.5), point(32, 40.0)]
    assert knee.knee(points).batch_size == 16
    assert knee.knee(points, enough=0.5).batch_size == 4
    assert knee.knee([*points, point(64, 1000.0)]).batch_size == 16


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=8))
def test_nothing_smaller_is_near_enough(times: list[float]) -> None:
    """Whatever the curve: the knee is near the best, and each smaller batch is not."""
    points = [point(2**number, taken) for number, taken in enumerate(times)]
    best = max(one.samples_per_s for one in points)
    found = knee.knee(points)
    assert found.samples_per_s >= knee.ENOUGH * best
    smaller = [one for one in points if one.batch_size < found.batch_size]
    assert all(one.samples_per_s < knee.ENOUGH * best for one in smaller)


def test_curve_is_measured() -> None:
    """Every size once, smallest first, with the memory of its step."""
    curve = batch_curve("sums", job_of, [4, 1, 4], lambda: None)
    assert [one.batch_size for one in curve.points] == [1, 4]
    assert [one.images for one in curve.points] == [3, 12]
    assert all(one.peak_bytes >= one.batch_size * 2**20 for one in curve.points)
    assert (curve.device, curve.stopped) == ("cpu", "")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_out_of_memory_ends_the_curve(error: RuntimeError) -> None:
    """What was measured stays; the size and the allocator's word are named."""

    def make(size: int) -> Job:
        if size > 2:
            raise error
        return job_of(size)

    curve = batch_curve("sums", make, [1, 2, 4, 8], lambda: None)
    assert [one.batch_size for one in curve.points] == [1, 2]
    assert curve.stopped.startswith("batch size 4: out of memory (")
    assert f"stopped there: {curve.stopped}" in knee_report.verdict_of(curve)
    with pytest.raises(KneeError, match=r"batch size 4: out of memory .*smaller --batch-sizes"):
        batch_curve("sums", make, [4], lambda: None)


def test_other_errors_are_passed_on() -> None:
    """A mistake of ours is no end of memory."""

    def make(size: int) -> Job:
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({size})")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        batch_curve("sums", make, [4], lambda: None)


def test_a_size_that_the_host_has_no_memory_for_is_not_tried() -> None:
    """The system would end the process: what the last size took says what the next one needs."""
    curve = batch_curve("sums", job_of, [1, 2, 512], lambda: 2**26)
    assert [one.batch_size for one in curve.points] == [1, 2]
    assert curve.stopped == "batch size 512: about 0.5 GiB are needed, 0.1 are free"


@pytest.mark.cuda
def test_the_gpu_says_what_it_holds_and_where_it_ends() -> None:
    """The allocator's peak of each size, until it refuses; nothing of it stays."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device("cuda")

    def make(size: int) -> Job:
        def work() -> torch.Tensor:
            return torch.ones(size, 2**28, device=device).sum()

        return Job("sums", device, (Part("step", work),), size, "images")

    curve = batch_curve("sums", make, [1, 2, 2**12], lambda: None)
    assert [one.batch_size for one in curve.points] == [1, 2]
    assert all(one.peak_bytes >= one.batch_size * 2**30 for one in curve.points)
    assert curve.stopped.startswith("batch size 4096: out of memory")
    assert torch.cuda.memory_allocated() < 2**30


def test_curve_is_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Table, numbers and picture name the same knee, and the rule."""
    curve = Curve("sums; ran eager", "cpu", (point(4, 10.0), point(8, 11.0), point(16, 21.0)))
    knee_report.write(curve, tmp_path)
    knee_report.show(curve)
    content = json.loads((tmp_path / "knee.json").read_text())
    assert content["knee"] == 8
    assert content["points"][1]["samples_per_s"] == pytest.approx(8 / 0.011)
    text = (tmp_path / "knee.txt").read_text()
    assert "knee: batch size 8, the smallest within 10% of the best" in text
    assert "400.0          52%" in text
    assert (tmp_path / "knee.png").stat().st_size > 5_000
    assert "knee: batch size 8" in capfd.readouterr().err


def test_a_rising_curve_says_that_it_ends_too_early() -> None:
    """The knee may lie beyond the largest size."""
    curve = Curve("sums", "cpu", (point(4, 10.0), point(8, 10.0)))
    assert "the rate still rises at the largest size" in knee_report.verdict_of(curve)
