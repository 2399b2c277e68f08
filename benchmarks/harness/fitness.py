"""Whether a machine is fit to measure: a line for each thing that spoils numbers beforehand."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.canary import Canaries
from benchmarks.harness.commit import DIRTY
from benchmarks.harness.gpu import Gpu, Sample, held_back, why_invalid
from benchmarks.harness.machine import Machine, num_cores
from benchmarks.harness.memory import CLEAR_REFS
from benchmarks.harness.rules import KNOWN_SESSIONS

Level = Literal["ok", "warning", "unfit"]
NEEDED = {"pytest": (9, 0), "pytest-benchmark": (5, 2, 3)}
SONGS = 12
QUIET = 0.05
"""Spread of the canaries (interquartile range over median) above which a machine is noisy."""
BUSY_LOAD = 0.5
"""Other programs' load per core that spoils wall times."""
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    level: Level
    text: str


def packages(installed: Callable[[str], str] = version) -> Iterator[Check]:
    """pytest and pytest-benchmark, at versions that the plugin was tried with."""
    for name, needed in NEEDED.items():
        least = ".".join(map(str, needed))
        try:
            found = installed(name)
        except PackageNotFoundError:
            yield Check("unfit", f"{name} is not installed; {least} or newer is needed")
            continue
        numbers = tuple(int(part) for part in found.split(".")[: len(needed)] if part.isdigit())
        if numbers < needed:
            yield Check("unfit", f"{name} {found} < {least}")
        else:
            yield Check("ok", f"{name} {found}")


def code(commit: str, edits: Sequence[str] = ()) -> Check:
    """Whether the numbers could be traced back to a commit; `edits` of an export are named."""
    if commit == "unknown":
        text = "the commit is not known, so no baseline can be accepted: set BENCHMARK_COMMIT"
        return Check("warning", text)
    if commit.endswith(DIRTY):
        where = f" (edited since its export: {', '.join(edits)})" if edits else ""
        return Check("warning", f"commit {commit}{where}: no baseline can be accepted from it")
    return Check("ok", f"commit {commit}")


def baseline(stored: Baseline | None, path: Path, required: bool) -> Check:
    """Whether there is something to compare with, and whether its noise is known."""
    if stored is None:
        level: Level = "unfit" if required else "warning"
        return Check(level, f"no baseline ({path}): python -m benchmarks baseline record")
    known = sum(noise.sessions >= KNOWN_SESSIONS for noise in stored.noise.values())
    total = len(stored.records)
    if known < total:
        text = f"{path}: the noise of {known} of {total} benchmarks is known; the others take "
        return Check("warning", text + "fresh processes to be red: baseline record, accept")
    return Check("ok", f"{path}: {total} benchmarks with their noise")


def host(load: float, governor: str | None, resets_peaks: bool) -> Iterator[Check]:
    """Neighbours, clocks and memory peaks of the host."""
    per_core = load / num_cores()
    text = f"load average {load:.2f} on {num_cores()} cores"
    busy = per_core > BUSY_LOAD
    yield Check("warning" if busy else "ok", text + (": wall times will move" if busy else ""))
    if governor is not None:
        slow = governor != "performance"
        advice = ": clocks follow the load (performance is steadier)" if slow else ""
        yield Check("warning" if slow else "ok", f"CPU governor {governor}{advice}")
    if not resets_peaks:
        yield Check("warning", f"{CLEAR_REFS} is not writable: no peaks of host memory here")


def noise(times: dict[str, Sequence[float]]) -> Iterator[Check]:
    """How far each canary's times lie apart, largest over smallest left out."""
    for name, values in sorted(times.items()):
        ordered = sorted(values)
        quarter = len(ordered) // 4
        middle = ordered[len(ordered) // 2]
        spread = (ordered[-1 - quarter] - ordered[quarter]) / middle if middle else math.inf
        level: Level = "warning" if spread > QUIET else "ok"
        yield Check(level, f"canary {name}: {1e3 * middle:.3g} ms, spread {spread:.1%}")


def canaries(device: str, look: Callable[[], object] | None = None) -> dict[str, Sequence[float]]:
    """A dozen songs of the canaries on their own clock; between them `look` sees them at work."""
    choir = Canaries(device)
    songs = []
    for _ in range(SONGS):
        songs.append(choir.sing())
        if look is not None:
            choir.work()
            look()
    clock = "gpu." if device == "cuda" else "wall."
    names = [name for name in songs[0] if name.startswith(clock)]
    return {name: [song[name] for song in songs] for name in names}


def gpu(machine: Machine, watched: Gpu | None, samples: Sequence[Sample]) -> Iterator[Check]:
    """What NVML says at a little work: other processes, throttling, temperature."""
    if machine.gpu is None:
        return
    if watched is None:
        yield Check("warning", "NVML is not available: throttling and neighbours stay unseen")
        return
    for reason in why_invalid(watched, samples):
        yield Check("unfit", reason)
    limited = held_back(samples)
    if limited:
        yield Check("warning", limited)
    last = samples[-1]
    told = {"C": last.temperature_c, "W": last.power_w, "MHz (SM)": last.sm_clock_mhz}
    shown = [f"{value:.0f} {unit}" for unit, value in told.items() if value is not None]
    yield Check("ok", f"GPU at {', '.join(shown)}" if shown else "GPU")


def read_governor() -> str | None:
    """The frequency governor of the first core; None where the system does not tell."""
    return GOVERNOR.read_text(encoding="ascii").strip() if GOVERNOR.exists() else None


def look_at_host() -> Iterator[Check]:
    """The findings about this host, now."""
    return host(os.getloadavg()[0], read_governor(), os.access(CLEAR_REFS, os.W_OK))
