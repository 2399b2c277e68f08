"""Utilisation and power of a GPU by its driver (NVML), sampled while work runs; the allocator."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from rap.profiling.summary import Allocator, Power

_EVERY_S = 0.02

Sample = tuple[float, float, float]
"""Utilisation in per cent, power in watts, SM clock in MHz."""


@contextmanager
def watching(device: torch.device) -> Iterator[list[Sample]]:
    """Samples of the device, taken until the block ends; none where there is no driver."""
    samples: list[Sample] = []
    handle = _handle(device)
    if handle is None:
        yield samples
        return
    done = threading.Event()

    def sample() -> None:
        while not done.wait(_EVERY_S):
            samples.append(_sample(handle))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def power_of(samples: list[Sample]) -> Power | None:
    """Means over the samples; None without any."""
    if not samples:
        return None
    utilisation, watts, clocks = zip(*samples, strict=True)
    num = len(samples)
    return Power(num, sum(utilisation) / num / 100, sum(watts) / num, max(watts), sum(clocks) / num)


def allocator_of(stats: Mapping[str, int]) -> Allocator:
    """The peaks in `torch.cuda.memory_stats()`; zero where there are none yet."""
    names = ("allocated", "reserved", "inactive_split")
    return Allocator(*(int(stats.get(f"{name}_bytes.all.peak", 0)) for name in names))


def _handle(device: torch.device) -> Any:  # noqa: ANN401 (NVML's own type)
    """NVML's handle of a CUDA device, found by its UUID; None where NVML is not there."""
    if device.type != "cuda":
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        _sample(handle)  # some drivers know a GPU and tell nothing of it
        return handle
    except pynvml.NVMLError:
        return None


def _sample(handle: Any) -> Sample:  # noqa: ANN401 (NVML's own type)
    import pynvml

    return (
        float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
    )
