"""Training speed and memory over the batch size, and where larger batches stop paying."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from rap import log
from rap.profiling.window import Job, allocated_in_a_step, timed

ENOUGH = 0.9
"""Share of the best rate that the knee has to reach."""
_GIB = 2**30


class KneeError(ValueError):
    """No batch size could be measured; says why."""


@dataclass(frozen=True)
class Point:
    """Training steps of one batch size."""

    batch_size: int
    """Photographs in a step; their renderings and views come on top."""
    images: int
    """All images of a step."""
    step_ms: float
    peak_bytes: int
    """On a GPU all that the allocator held; on a CPU what a step takes beyond what was there."""
    settled: bool
    """Whether step times had settled when the measurement began."""

    @property
    def samples_per_s(self) -> float:
        """Photographs per second."""
        return 1e3 * self.batch_size / self.step_ms


@dataclass(frozen=True)
class Curve:
    """What was measured, smallest batch first, and why it ended early if it did."""

    what: str
    device: str
    points: tuple[Point, ...]
    stopped: str = ""


def knee(points: Sequence[Point], enough: float = ENOUGH) -> Point:
    """The smallest batch whose rate is within `enough` of the best one."""
    best = max(point.samples_per_s for point in points)
    by_size = sorted(points, key=lambda point: point.batch_size)
    return next(point for point in by_size if point.samples_per_s >= enough * best)


def batch_curve(
    what: str,
    make: Callable[[int], Job],
    sizes: Sequence[int],
    free_bytes: Callable[[], int | None],
) -> Curve:
    """Measure the step that `make` builds for each batch size, until memory does not suffice.

    `free_bytes` tells what the host has left, None if unknown: without a GPU the system would end
    the process instead of refusing. Raises KneeError where not even the first size fits.
    """
    points: list[Point] = []
    ran = device = stopped = ""
    for size in sorted(set(sizes)):
        stopped = _too_much(points, size, free_bytes()) if device == "cpu" else ""
        if stopped:
            break
        try:
            job = make(size)
            points.append(_measured(job, size))
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            stopped = f"batch size {size}: out of memory ({_first_sentence(error)})"
            break
        ran, device = job.ran(), job.device.type
        log.info(
            f"batch size {size}: {points[-1].samples_per_s:,.1f} samples/s, "
            f"peak {points[-1].peak_bytes / 2**20:,.0f} MiB"
        )
        del job
        _free(device)
    if not points:
        raise KneeError(f"{stopped}: give smaller --batch-sizes")
    return Curve(f"{what}; {ran}" if ran else what, device, tuple(points), stopped)


def _measured(job: Job, size: int) -> Point:
    found = timed(job)
    if found.allocator is not None:
        peak = found.allocator.allocated_bytes
    else:
        with TemporaryDirectory() as folder:
            peak = allocated_in_a_step(job, Path(folder))
    return Point(size, job.items, found.step_ms, peak, found.warm_up.settled)


def _too_much(points: Sequence[Point], size: int, free: int | None) -> str:
    """Why a step of this size is not tried, by the last one's memory; empty if it may be."""
    if not points or free is None:
        return ""
    need = points[-1].peak_bytes * size // points[-1].batch_size
    if need <= free:
        return ""
    return f"batch size {size}: about {need / _GIB:.1f} GiB are needed, {free / _GIB:.1f} are free"


def _out_of_memory(error: RuntimeError) -> bool:
    """The GPU's allocator has a type of error for it; host, driver and libraries have texts."""
    texts = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)


def _first_sentence(error: RuntimeError) -> str:
    return str(error).strip().split(". ")[0].splitlines()[0]


def _free(device: str) -> None:
    """Nothing of one size is in the next one's peak, nor keeps memory from it."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
