"""What a profile found, as numbers per step, and the verdict: what a step waits for most.

Pure: a summary is made by `trace.py` from a recorded trace, or by a test from thin air.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["launch-bound", "transfer-bound", "compute-bound", "input-bound"]


@dataclass(frozen=True)
class Operation:
    """A kernel, or a torch operation without those that it calls."""

    name: str
    calls: float
    ms: float


@dataclass(frozen=True)
class Phase:
    """A part of the step: its time on the host, and the most memory that was taken during it."""

    name: str
    host_ms: float
    peak_bytes: int


@dataclass(frozen=True)
class Power:
    """The GPU as its driver saw it while steps ran unprofiled: means, and the largest power."""

    num_samples: int
    utilisation: float
    """Share of the time in which any kernel ran."""
    power_w: float
    max_power_w: float
    sm_clock_mhz: float


@dataclass(frozen=True)
class Allocator:
    """Peaks of torch's caching allocator on the GPU, over all steps before the profiler."""

    allocated_bytes: int
    """In tensors."""
    reserved_bytes: int
    """Taken from the GPU."""
    split_bytes: int
    """Remainders of blocks that are in use: no other size fits, and they cannot be given back."""

    @property
    def unused(self) -> float:
        """Share of what was taken that held no tensor at the peak: fragmentation, and caching."""
        return max(0.0, 1 - self.allocated_bytes / max(1, self.reserved_bytes))


@dataclass(frozen=True)
class Summary:
    """One kind of step, per step; the lists with the largest first."""

    what: str
    device: str
    """`cuda` or `cpu`."""
    items: int
    unit: str
    """What a step handles, and how many."""
    step_ms: float
    """Wall time without the profiler, median."""
    profiled_ms: float
    """Wall time under the profiler, mean."""
    num_steps: int
    """Profiled."""
    compute_ms: float
    """With a GPU: some kernel ran. Without: some operation ran that is neither input nor copy."""
    copy_ms: float
    """Copies between host and device; without a GPU, copies of any tensor."""
    input_ms: float
    """Host time in the phases that fetch the step's input."""
    launches: float
    """CUDA launches; without a GPU, operations called from Python."""
    host_syncs: float
    sync_ms: float
    """Host time inside of synchronisations."""
    copies: float
    by_device: tuple[Operation, ...]
    by_host: tuple[Operation, ...]
    phases: tuple[Phase, ...]
    memory: tuple[tuple[float, int], ...]
    """Milliseconds from the first step on, and the bytes then allocated."""
    power: Power | None = None
    allocator: Allocator | None = None
    ran: str = ""
    """How steps ran, and why not as they were asked to; empty where there is one way only."""
    warm_up: str = ""
    """How many steps went before, and whether their times had settled."""

    @property
    def reference_ms(self) -> float:
        """The step that shares are taken of.

        The profiler slows the host but not kernels, so with a GPU it is the one without profiler.
        """
        return self.step_ms if self.device == "cuda" else self.profiled_ms

    @property
    def idle(self) -> float:
        """Share of the step in which the device neither computes nor copies."""
        return 1 - min(1.0, (self.compute_ms + self.copy_ms) / self.reference_ms)


@dataclass(frozen=True)
class Verdict:
    """What most of a step goes into, and the facts that say so."""

    kind: Kind
    share: float
    """Of the step."""
    evidence: tuple[str, ...]


def shares(summary: Summary) -> dict[Kind, float]:
    """A step's time by what it went into; the shares add up to 1.

    The device computes, or copies, or is idle. Idle it waits for input as long as the host fetches
    it, and for launches (Python, dispatch, synchronisation) the rest.
    """
    busy_ms = summary.compute_ms + summary.copy_ms
    whole_ms = max(busy_ms, summary.reference_ms)
    waiting_ms = min(whole_ms - busy_ms, summary.input_ms)
    return {
        "compute-bound": summary.compute_ms / whole_ms,
        "transfer-bound": summary.copy_ms / whole_ms,
        "input-bound": waiting_ms / whole_ms,
        "launch-bound": (whole_ms - busy_ms - waiting_ms) / whole_ms,
    }


def verdict(summary: Summary) -> Verdict:
    """The largest share names the step; the facts that it rests on come with it."""
    parts = shares(summary)
    kind = max(parts, key=lambda name: parts[name])
    step = summary.reference_ms
    device = "GPU" if summary.device == "cuda" else "processor"
    facts = {
        "compute-bound": f"{device} computes {summary.compute_ms:.3g} ms of {step:.3g} ms"
        + _leading(summary),
        "transfer-bound": f"{summary.copies:.4g} copies take {summary.copy_ms:.3g} ms "
        f"of {step:.3g} ms",
        "input-bound": f"fetching input takes the host {summary.input_ms:.3g} ms of {step:.3g} ms, "
        "during which nothing computes",
        "launch-bound": f"nothing computes in {summary.idle:.0%} of {step:.3g} ms; "
        + _launching(summary),
    }
    others = ", ".join(f"{name} {part:.0%}" for name, part in parts.items() if name != kind)
    return Verdict(kind, parts[kind], (facts[kind], f"the other shares: {others}"))


def _leading(summary: Summary) -> str:
    leading = summary.by_device if summary.device == "cuda" else summary.by_host
    if not leading:
        return ""
    return f", {leading[0].ms:.3g} ms of them in {leading[0].name}"


def _launching(summary: Summary) -> str:
    what = "launches" if summary.device == "cuda" else "operations called"
    each = 1e3 * summary.reference_ms / max(summary.launches, 1.0)
    text = f"{summary.launches:.4g} {what}, one every {each:.3g} us"
    if summary.host_syncs:
        text += (
            f"; {summary.host_syncs:.3g} synchronisations hold the host {summary.sync_ms:.3g} ms"
        )
    return text
