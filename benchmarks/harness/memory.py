"""Peak memory of one benchmark: what it took beyond what the process held before it began.

On the GPU the caching allocator's peak, graph pools included. On the host VmHWM, which Linux resets
on request, without the pages of files and libraries. glibc keeps freed blocks or gives them back as
it pleases: one code took 330 to 410 MiB, and 16 or 31 ms, from process to process. So the first two
calls run with every large block mapped and unmapped on its own (peaks repeat to about 1 MiB), and
everything after them with a heap that keeps what it has (times repeat).
"""

import ctypes
import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"

# malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
EXACT = {M_MMAP_THRESHOLD: 64 << 10, M_TRIM_THRESHOLD: 128 << 10}
STEADY = {M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 1 << 30}


def forget_what_is_loaded() -> None:
    """Everything loaded so far stays, and no collection of garbage looks at it again.

    There is one before each benchmark, so that its peak is its own: over all that torch, the suite
    and pytest hold, each takes 0.15 s, half as long as what it is made for. Those that Python makes
    when a process ends take 0.7 s, and free what ends anyway.
    """
    gc.collect()
    gc.freeze()


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is looked for meanwhile: imports make none. Of torch's compiler, 0.3 of 1.0 s."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class MemoryWatch:
    """Peaks of one benchmark, counted from `__init__`; the host's until `settle`."""

    def __init__(self, device: str) -> None:
        self.notes: list[str] = []
        self._cuda = device == "cuda"
        self._excluded = 0
        self._host_peak: float | None = None
        gc.collect()
        set_heap(EXACT)
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._gpu_before = torch.cuda.memory_allocated()
        self._host_before = self._reset_host()

    def exclude(self, num_bytes: int) -> None:
        """Leave the harness's own buffer, held on the benchmark's device, out of the peak."""
        self._excluded += num_bytes

    def settle(self) -> None:
        """Keep the host's peak as it is now; from here on the heap is kept for steady times."""
        self._host_peak = self._read_host()
        set_heap(STEADY)

    def read(self) -> dict[str, float]:
        """`peak_cpu_bytes` and, on a GPU, `peak_gpu_bytes` and the allocator's fragmentation.

        `notes` says what is not known.
        """
        peaks: dict[str, float] = {}
        if self._cuda:
            import torch

            peaks["peak_gpu_bytes"] = self._read_gpu()
            peaks |= fragmentation(torch.cuda.memory_stats())
        host = self._read_host() if self._host_peak is None else self._host_peak
        if host is not None:
            peaks["peak_cpu_bytes"] = host
        return peaks

    def bytes_above_peak(self, share: float) -> int:
        """How much must be taken now, on the benchmark's device, to exceed its peak by a share."""
        if self._cuda:
            import torch

            held = torch.cuda.memory_allocated() - self._gpu_before - self._excluded
            return max(0, int((1 + share) * self._read_gpu()) - held)
        peak = self._read_host()
        if peak is None or self._host_before is None:
            return 0
        held = read_status("RssAnon") - self._host_before - self._excluded
        return max(0, int((1 + share) * peak) - held)

    def _read_gpu(self) -> float:
        import torch

        return float(max(0, torch.cuda.max_memory_allocated() - self._gpu_before - self._excluded))

    def _read_host(self) -> float | None:
        if self._host_before is None:
            return None
        excluded = 0 if self._cuda else self._excluded
        anonymous = read_status("VmHWM") - read_status("RssFile")
        return float(max(0, anonymous - self._host_before - excluded))

    def _reset_host(self) -> int | None:
        try:
            CLEAR_REFS.write_text(RESET_PEAK, encoding="ascii")
            _, _, before = (read_status(field) for field in ("VmHWM", "RssFile", "RssAnon"))
        except OSError as error:
            reason = error.strerror or str(error)
            self.notes.append(f"peak_cpu_bytes: this kernel does not reset and tell it ({reason})")
            return None
        return before


def fragmentation(stats: Mapping[str, int]) -> dict[str, float]:
    """What the caching allocator took from the GPU and had no tensor in, at the peak.

    `unused_gpu_bytes`: reserved, not allocated. `split_gpu_bytes`: of it, the remainders of blocks
    that are in use, which cannot be given back. From `torch.cuda.memory_stats`; shown, not gated.
    """
    peak = {name: stats.get(f"{name}_bytes.all.peak", 0)
            for name in ("reserved", "allocated", "inactive_split")}  # fmt: skip
    return {
        "unused_gpu_bytes": float(max(0, peak["reserved"] - peak["allocated"])),
        "split_gpu_bytes": float(peak["inactive_split"]),
    }


def read_status(field: str, status: Path = STATUS) -> int:
    """A size of this process in bytes, e.g. `VmHWM`; OSError where the system does not tell."""
    for line in status.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{status} has no {field}")


def give_back() -> None:
    """Let go of everything that nobody holds, down to the pages that glibc keeps for later.

    What is left is kept for good: no later collection looks at it.

    Those follow the timing of threads, each of which has a heap of its own: of one code, processes
    kept 250 to 290 MiB before their first benchmark, and hold 247 MiB (two busy cores).
    """
    forget_what_is_loaded()
    set_heap({})


def set_heap(thresholds: dict[int, int]) -> None:
    """Give free memory back and set how glibc treats large blocks; elsewhere nothing to set."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc has it, musl does not
        for name, value in thresholds.items():
            library.mallopt(name, value)
        library.malloc_trim(0)
