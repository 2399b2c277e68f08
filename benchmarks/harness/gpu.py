"""What NVML says about the GPU: its model and limits, and whether it was fit while we measured."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

from benchmarks.harness.statistics import median

T = TypeVar("T")

MIN_ENERGY_S = 0.5
"""Boards renew their energy counter every 20 to 100 ms: over a shorter span than this it could be
off by more than a fifth."""

# nvml.h, nvmlClocksEventReason*: the bits under which a number is invalid, not slow, come first.
HARDWARE_THROTTLE = {0x08: "hw_slowdown", 0x40: "hw_thermal", 0x80: "hw_power_brake"}
REASONS = HARDWARE_THROTTLE | {
    0x01: "idle",
    0x02: "application_clocks",
    0x04: "power_cap",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x100: "display_clocks",
}


@dataclass(frozen=True)
class Sample:
    """One look at the GPU; None where this GPU or driver does not tell."""

    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    throttle: int
    processes: frozenset[int]
    energy_j: float | None = None
    """Since the driver was loaded."""
    process_bytes: float | None = None
    """What the driver counts for this process: context and libraries included."""
    taken_s: float = 0.0
    """When, on the clock of `time.perf_counter`."""


def load_nvml() -> ModuleType | None:
    """The initialised NVML module; None without the package, the driver or a GPU."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return pynvml if pynvml.nvmlDeviceGetCount() > 0 else None
    except pynvml.NVMLError:
        return None


def listed_processes(nvml: ModuleType) -> frozenset[int]:
    """Processes that compute on any GPU of this host, as NVML sees them."""
    found: set[int] = set()
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        found |= set(_processes(nvml, handle))
    return frozenset(found)


def _processes(nvml: ModuleType, handle: object) -> dict[int, float | None]:
    """Processes on one GPU with the bytes each holds; none where a container may not list them."""
    try:
        listed = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return {}
    return {process.pid: getattr(process, "usedGpuMemory", None) for process in listed}


FAMILY = "BENCHMARK_FAMILY_PIDS"
"""In the environment: processes of ours on the GPU, the one that started us among them."""


class Gpu:
    """One GPU through NVML. `nvml` is the module, handed in so that tests can play it.

    `before` are the processes that were listed before this one used CUDA (`listed_processes`).
    """

    def __init__(self, nvml: ModuleType, uuid: str | None, before: frozenset[int]) -> None:
        self._nvml = nvml
        # CUDA_VISIBLE_DEVICES renumbers torch's devices, not NVML's: only the UUID is the same.
        found = None if uuid is None else self._ask(lambda: nvml.nvmlDeviceGetHandleByUUID(uuid))
        self._handle = nvml.nvmlDeviceGetHandleByIndex(0) if found is None else found
        self._own: frozenset[int] = frozenset()
        started_by = os.environ.get(FAMILY, "")
        self._elders = frozenset(int(pid) for pid in started_by.split(",") if pid.isdigit())
        listed = self.sample().processes
        # In a container the list holds pids of the host: then ours is the one that has appeared
        # since `before`, or the only one.
        alone = listed if len(listed) == 1 else frozenset()
        self._own = frozenset({os.getpid()}) & listed or listed - before or alone

    def family(self) -> str:
        """What a process that we start must find as `FAMILY`, so that we are no stranger to it."""
        return ",".join(map(str, sorted(self._own | self._elders)))

    def power_limit_w(self) -> float | None:
        """The enforced power limit: two boards of one model with other limits are two machines."""
        limit = self._ask(lambda: self._nvml.nvmlDeviceGetEnforcedPowerLimit(self._handle))
        return None if limit is None else limit / 1000

    def driver(self) -> str | None:
        """The driver's version."""
        return self._ask(lambda: self._nvml.nvmlSystemGetDriverVersion())

    def sample(self, *, with_processes: bool = True) -> Sample:
        """Clocks, throttle reasons, power, temperature and processes, now.

        What changes first when work ends is asked first.
        """
        nvml, handle = self._nvml, self._handle
        sm_clock = self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
        reasons = self._ask(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        power = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        energy = self._ask(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        taken_s = time.perf_counter()
        processes = _processes(nvml, handle) if with_processes else {}
        held = [size for pid, size in processes.items() if pid in self._own and size]
        return Sample(
            sm_clock,
            self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            None if power is None else power / 1000,
            self._ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            reasons or 0,
            frozenset(processes),
            None if energy is None else energy / 1000,
            max(held, default=None),
            taken_s,
        )

    def foreign(self, sample: Sample) -> frozenset[int]:
        """Processes on this GPU that are not ours."""
        return sample.processes - self._own - self._elders

    def _ask(self, query: Callable[[], T]) -> T | None:
        try:
            return query()
        except self._nvml.NVMLError:  # this GPU or driver does not tell: the field stays empty
            return None


def facts(samples: Sequence[Sample]) -> dict[str, float]:
    """The medians of what was sampled, of temperature and memory the highest; names with units.

    A single look that fell into a pause says nothing about the others.
    """
    fields = ("sm_clock_mhz", "memory_clock_mhz", "power_w", "temperature_c")
    told = {f: [v for s in samples if (v := getattr(s, f)) is not None] for f in fields}
    found = {field: median(values) for field, values in told.items() if values}
    if told["temperature_c"]:
        found["temperature_c"] = max(told["temperature_c"])
    held = [sample.process_bytes for sample in samples if sample.process_bytes is not None]
    if held:
        found["process_gpu_bytes"] = max(held)
    return found


def mean_power(first: Sample, last: Sample) -> dict[str, float]:
    """The power that the energy between two looks says; none over a span too short for it.

    Two looks at the power meter are moments; the energy between them is all of it. But its counter
    moves in ticks: a step of 5 ms between two of them has had none, or ten times its own.
    """
    span = last.taken_s - first.taken_s
    if first.energy_j is None or last.energy_j is None or span < MIN_ENERGY_S:
        return {}
    return {"mean_power_w": (last.energy_j - first.energy_j) / span}


def held_back(samples: Sequence[Sample]) -> str:
    """Why the clocks were not at their top, in words; empty where they were or only idle."""
    bits = 0
    for sample in samples:
        bits |= sample.throttle
    reasons = [name for name in throttle_names(bits) if name != "idle"]
    return f"GPU clocks were limited by {', '.join(reasons)}" if reasons else ""


def throttle_names(bits: int) -> list[str]:
    """The names of the set throttle bits."""
    return [name for bit, name in sorted(REASONS.items()) if bits & bit]


def why_invalid(gpu: Gpu, samples: Sequence[Sample]) -> list[str]:
    """Reasons why numbers taken between these samples are invalid rather than slow."""
    bits = 0
    foreign: frozenset[int] = frozenset()
    for sample in samples:
        bits |= sample.throttle
        foreign |= gpu.foreign(sample)
    reasons = [
        f"hardware throttle: {name}" for bit, name in HARDWARE_THROTTLE.items() if bits & bit
    ]
    if foreign:
        pids = ", ".join(map(str, sorted(foreign)))
        reasons.append(f"another process on the GPU: pid {pids}")
    return reasons
