"""Which machine this is, what its GPU says, and what its memory took."""

import dataclasses
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.harness import faults, memory
from benchmarks.harness.cache import last_level_cache_bytes
from benchmarks.harness.canary import Canaries, average
from benchmarks.harness.gpu import (
    FAMILY,
    Gpu,
    Sample,
    facts,
    held_back,
    listed_processes,
    mean_power,
    throttle_names,
    why_invalid,
)
from benchmarks.harness.machine import (
    Machine,
    container_runtime,
    num_cores,
    resolve_device,
    slug,
    this_machine,
)
from benchmarks.harness.memory import STEADY, MemoryWatch, read_status, set_heap


class NVMLError(Exception):
    """What the real module raises."""


def play_nvml(processes: list[int], throttle: int = 0, **missing: bool) -> Any:  # noqa: ANN401 (a module's stand-in)
    """A module that answers like NVML on a board with these processes."""

    def power(handle: str) -> int:
        if missing.get("power"):
            raise NVMLError(handle)
        return 650_000

    joules = count(step=2_000)  # NVML counts in millijoules
    return SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: f"handle {index}",
        nvmlDeviceGetHandleByUUID=lambda uuid: f"handle {uuid}",
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 700_000,
        nvmlSystemGetDriverVersion=lambda: "580.1",
        nvmlDeviceGetPowerUsage=power,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: throttle,
        nvmlDeviceGetClockInfo=lambda handle, kind: 1980 if kind == 1 else 3201,
        nvmlDeviceGetTemperature=lambda handle, kind: 45,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(joules),
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [
            SimpleNamespace(pid=pid, usedGpuMemory=pid << 20) for pid in processes
        ],
    )


def test_gpu_tells_its_facts() -> None:
    """Under names with units."""
    gpu = Gpu(play_nvml([]), "GPU-1", frozenset())
    assert facts([gpu.sample()]) == {
        "sm_clock_mhz": 1980, "memory_clock_mhz": 3201, "power_w": 650, "temperature_c": 45,
    }  # fmt: skip
    assert (gpu.power_limit_w(), gpu.driver()) == (700, "580.1")


def test_power_over_a_benchmark_is_its_energy_over_its_time() -> None:
    """Two looks at the power meter could both fall between two rounds."""
    before, after = (
        Sample(None, None, None, None, 0, frozenset(), energy_j=joules, taken_s=seconds)
        for joules, seconds in ((100.0, 1.0), (400.0, 2.5))
    )
    assert mean_power(before, after) == {"mean_power_w": 200.0}
    gpu = Gpu(play_nvml([]), None, frozenset())
    samples = [gpu.sample(), gpu.sample()]
    assert samples[1].energy_j == pytest.approx((samples[0].energy_j or 0) + 2)


def test_no_power_over_less_than_a_few_ticks_of_the_meter() -> None:
    """A step of 5 ms between two ticks took nothing, or ten times its own energy."""
    before, after = (
        Sample(None, None, None, None, 0, frozenset(), energy_j=joules, taken_s=seconds)
        for joules, seconds in ((100.0, 1.0), (140.0, 1.04))
    )
    assert mean_power(before, after) == {}
    assert mean_power(before, dataclasses.replace(after, energy_j=None, taken_s=9.0)) == {}


def test_facts_are_medians_and_the_highest_temperature() -> None:
    """A look that fell into a pause says nothing about the others."""
    sample = Gpu(play_nvml([]), None, frozenset()).sample()
    odd = dataclasses.replace(sample, sm_clock_mhz=345.0, temperature_c=71.0)
    told = facts([odd, sample, sample])
    assert (told["sm_clock_mhz"], told["temperature_c"]) == (1980, 71)


def test_memory_that_the_driver_counts_is_our_process_s() -> None:
    """A neighbour's is not ours."""
    gpu = Gpu(play_nvml([71, 90]), None, frozenset({71}))
    assert facts([gpu.sample()])["process_gpu_bytes"] == 90 << 20


def test_limited_clocks_are_noted() -> None:
    """A power cap is not invalid, but whoever compares wants to know; idling is nothing."""
    sample = Gpu(play_nvml([], throttle=0x04 | 0x01), None, frozenset()).sample()
    assert held_back([sample]) == "GPU clocks were limited by power_cap"
    assert held_back([dataclasses.replace(sample, throttle=0x01)]) == ""


def test_what_nvml_does_not_tell_stays_empty() -> None:
    """Not every board reports power."""
    gpu = Gpu(play_nvml([], power=True), None, frozenset())
    assert "power_w" not in facts([gpu.sample()])


def test_process_that_appeared_with_us_is_ours() -> None:
    """In a container NVML lists the host's pids; what was there before is foreign."""
    nvml = play_nvml([71, 900_001])
    gpu = Gpu(nvml, None, frozenset({71}))
    assert why_invalid(gpu, [gpu.sample()]) == ["another process on the GPU: pid 71"]
    assert listed_processes(nvml) == {71, 900_001}


def test_lone_process_is_ours() -> None:
    """CUDA may have been in use before the harness looked."""
    gpu = Gpu(play_nvml([71]), None, frozenset({71}))
    assert why_invalid(gpu, [gpu.sample()]) == []


def test_who_started_us_is_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that measures again in a fresh process still holds the GPU itself."""
    parent = Gpu(play_nvml([71]), None, frozenset())
    nvml = play_nvml([71, 90])
    stranger = Gpu(nvml, None, frozenset({71}))
    assert why_invalid(stranger, [stranger.sample()]) == ["another process on the GPU: pid 71"]
    monkeypatch.setenv(FAMILY, parent.family())
    child = Gpu(nvml, None, frozenset({71}))
    assert why_invalid(child, [child.sample()]) == []
    assert child.family() == "71,90"


def test_hardware_throttle_invalidates_and_power_cap_does_not() -> None:
    """A power cap is how the board works; a brake is not."""
    gpu = Gpu(play_nvml([], throttle=0x40 | 0x04), None, frozenset())
    assert why_invalid(gpu, [gpu.sample()]) == ["hardware throttle: hw_thermal"]
    assert throttle_names(0x44) == ["power_cap", "hw_thermal"]


def test_key_names_what_matters(toy_machine: Machine) -> None:
    """Versions are not in it: an upgrade is judged, not waved through."""
    assert toy_machine.key == "cpu_toy_x2"
    gpu = dataclasses.replace(
        toy_machine, device="cuda", gpu="NVIDIA H200", num_gpus=2, power_limit_w=700.0,
        gpu_memory_bytes=150_000_000_000,
    )  # fmt: skip
    assert gpu.key == "nvidia-h200_x2_140g_700w_toy_x2"
    assert dataclasses.replace(gpu, versions={"torch": "9"}).key == gpu.key


@pytest.mark.parametrize(
    ("text", "expected"),
    [("AMD EPYC 9654 96-Core Processor", "amd-epyc-9654"),
     ("Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", "intel-xeon-platinum-8480"),
     ("---", "unknown")],
)  # fmt: skip
def test_slug_is_a_folder_name(text: str, expected: str) -> None:
    """Marketing marks and clock rates left out."""
    assert slug(text) == expected


def test_this_machine_describes_itself() -> None:
    """Without a GPU and without importing torch."""
    machine, gpu = this_machine("cpu")
    assert gpu is None
    assert machine.cores == num_cores() >= 1
    assert f"{machine.cores} cores" in machine.describe()
    assert machine.key.startswith("cpu_")


def test_unusable_gpu_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name and not there."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="--device cuda"):
        resolve_device("cuda")


@pytest.mark.parametrize(
    ("files", "expected"),
    [({}, "none"), ({".dockerenv": ""}, "docker"), ({"run/.containerenv": ""}, "podman"),
     ({".dockerenv": "", "proc/version": "Linux 4.4 Sun Jan 10 15:06:54 PST 2016"}, "gvisor")],
)  # fmt: skip
def test_container_runtime(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    """Wall times under different ones are not compared."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert container_runtime(tmp_path) == expected


@pytest.fixture
def peak_of() -> Callable[[int], float]:
    """The peak that the watch reports for an allocation of some bytes."""

    def measure(num_bytes: int) -> float:
        watch = MemoryWatch("cpu")
        if watch.notes:
            pytest.skip(f"no peak here: {watch.notes[0]}")
        held = faults.ballast(num_bytes, "cpu")
        del held
        return watch.read()["peak_cpu_bytes"]

    return measure


def test_peak_counts_what_was_freed_again(peak_of: Callable[[int], float]) -> None:
    """To a megabyte or so, and from zero each time, whatever the heap still holds."""
    mib = 2.0**20
    set_heap(STEADY)
    kept = faults.ballast(16 << 20, "cpu")
    del kept  # its pages stay with the process
    for size in (16 << 20, 64 << 20):
        assert peak_of(size) / mib == pytest.approx(size / mib, abs=2)


def test_host_peak_is_kept_when_timing_begins() -> None:
    """What the rounds leave in the heap is not the benchmark's."""
    watch = MemoryWatch("cpu")
    if watch.notes:
        pytest.skip(f"no peak here: {watch.notes[0]}")
    watch.settle()
    before = watch.read()
    held = faults.ballast(32 << 20, "cpu")
    assert held
    assert watch.read() == before


def test_ballast_lifts_the_peak_by_its_share() -> None:
    """20 % above what was taken at most, not above what is held now."""
    watch = MemoryWatch("cpu")
    if watch.notes:
        pytest.skip(f"no peak here: {watch.notes[0]}")
    freed = faults.ballast(64 << 20, "cpu")
    del freed
    held = faults.ballast(watch.bytes_above_peak(0.2), "cpu")
    assert held
    assert watch.read()["peak_cpu_bytes"] == pytest.approx(1.2 * (64 << 20), rel=0.05)


def test_harness_buffers_are_left_out_of_the_peak() -> None:
    """They are not the benchmark's."""
    watch = MemoryWatch("cpu")
    held = faults.ballast(32 << 20, "cpu")
    watch.exclude(32 << 20)
    assert held
    assert watch.read().get("peak_cpu_bytes", 0.0) < 4 << 20


def test_kernel_that_forbids_the_reset_gives_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No number instead of a wrong one."""
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "no" / "clear_refs")
    watch = MemoryWatch("cpu")
    assert watch.read() == {}
    assert watch.notes[0].startswith("peak_cpu_bytes: this kernel does not reset")


def test_unknown_status_field_is_an_error(tmp_path: Path) -> None:
    """Some sandboxes leave VmHWM out."""
    (tmp_path / "status").write_text("Name: x\nVmRSS:\t 12 kB\n", encoding="ascii")
    assert read_status("VmRSS", tmp_path / "status") == 12 * 1024
    with pytest.raises(OSError, match="VmHWM"):
        read_status("VmHWM", tmp_path / "status")


def test_last_level_cache_is_the_largest(tmp_path: Path) -> None:
    """From sysfs; a default where the system does not tell."""
    for index, size in enumerate(["32K", "1024K", "32M"]):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n", encoding="ascii")
    assert last_level_cache_bytes(tmp_path) == 32 << 20
    assert last_level_cache_bytes(tmp_path / "none") == 64 << 20


def test_canaries_are_compared_pairwise() -> None:
    """The same kernels on the same clocks every time; before and after are averaged."""
    canaries = Canaries("cpu")
    first, second = canaries.sing(), canaries.sing()
    assert first.keys() == second.keys() >= {"wall.python", "cpu.python", "wall.copy"}
    assert average({"a": 1.0}, {"a": 3.0}) == {"a": 2.0}
