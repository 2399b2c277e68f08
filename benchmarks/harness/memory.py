"""Peak memory of one benchmark: what it took beyond what the process held before it began.

On the GPU the caching allocator's peak, graph pools included. On the host VmHWM, which Linux resets
on request; freed heap is first handed back to the system, so that an earlier benchmark's leftovers
do not hide what this one takes. Where the reset is not permitted there is no number, but a reason.
"""

import ctypes
import gc
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"


class MemoryWatch:
    """Peaks between `__init__`, which resets them, and `read`."""

    def __init__(self, device: str) -> None:
        self.notes: list[str] = []
        self._cuda = device == "cuda"
        self._shift = {"cpu": 0, "cuda": 0}
        gc.collect()
        _trim_heap()
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._gpu_before = torch.cuda.memory_allocated()
        self._host_before = self._reset_host()

    def exclude(self, num_bytes: int) -> None:
        """Leave the harness's own buffer, held on the benchmark's device, out of the peak."""
        self._shift["cuda" if self._cuda else "cpu"] += num_bytes

    def read(self) -> dict[str, float]:
        """`peak_cpu_bytes` and, on a GPU, `peak_gpu_bytes`; `notes` says what is not known."""
        peaks: dict[str, float] = {}
        if self._cuda:
            import torch

            peak = torch.cuda.max_memory_allocated() - self._gpu_before - self._shift["cuda"]
            peaks["peak_gpu_bytes"] = float(max(peak, 0))
        if self._host_before is not None:
            peak = read_status("VmHWM") - self._host_before - self._shift["cpu"]
            peaks["peak_cpu_bytes"] = float(max(peak, 0))
        return peaks

    def _reset_host(self) -> int | None:
        try:
            CLEAR_REFS.write_text(RESET_PEAK, encoding="ascii")
            return read_status("VmRSS")
        except OSError as error:
            self.notes.append(f"peak_cpu_bytes: the kernel does not reset VmHWM ({error.strerror})")
            return None


def read_status(field: str, status: Path = STATUS) -> int:
    """A size of this process in bytes, e.g. `VmHWM`; OSError where the system does not tell."""
    for line in status.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(0, f"{status} has no {field}")


def _trim_heap() -> None:
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc has it, musl does not
        library.malloc_trim(0)
