"""Canaries: three fixed kernels that tell a slower machine from slower code.

They run beside every benchmark, in slices about as long as a round, and are averaged rather than
medianed, so that they feel the same neighbours. `wall.*`, `cpu.*` and `gpu.*` name the clock.
"""

import sys
import time
from collections.abc import Callable

from benchmarks.harness.clock import cuda_clock, host_clock

Kernel = Callable[[], object]

COPY_BYTES = 32 << 20
LOOPS = 150_000
SLICES = 3
WORK = 200
"""Calls of each kernel that take a GPU some milliseconds."""
RECENT_S = 1.0
"""A song this young serves the next benchmark, too."""


class Canaries:
    """The kernels of one process, their buffers allocated before any benchmark's memory counts."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._kernels: dict[str, Kernel] = {"python": _python_loop}
        # A suite that does not use torch is not made to wait for its import.
        if "torch" in sys.modules:
            rehearse_torch(device)
            self._kernels |= _torch_kernels(device)
        else:
            source, target = bytearray(COPY_BYTES), bytearray(COPY_BYTES)
            self._kernels["copy"] = lambda: target.__setitem__(slice(None), source)
        for kernel in self._kernels.values():
            kernel()
        self._sung: tuple[float, dict[str, float]] | None = None

    def before(self) -> dict[str, float]:
        """What was sung after the benchmark before, if it is that recent; else a song."""
        if self._sung is not None and time.perf_counter() - self._sung[0] < RECENT_S:
            return self._sung[1]
        return self.sing()

    def work(self) -> None:
        """Queue some milliseconds of work on the device, and do not wait for it."""
        for name, kernel in self._kernels.items():
            for _ in range(WORK if self._cuda and name != "python" else 1):
                kernel()

    def sing(self) -> dict[str, float]:
        """Seconds per call of each kernel on each clock, e.g. `wall.copy`."""
        times: dict[str, float] = {}
        for name, kernel in self._kernels.items():
            clock = cuda_clock if self._cuda and name != "python" else host_clock
            _, taken = clock(kernel, SLICES)
            times[f"wall.{name}"] = taken.wall_s
            times[f"cpu.{name}"] = taken.cpu_s
            if taken.gpu_s:
                times[f"gpu.{name}"] = sum(taken.gpu_s) / len(taken.gpu_s)
        self._sung = time.perf_counter(), times
        return times


def average(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """The mean of the canaries before and after a benchmark."""
    return {name: 0.5 * (one[name] + other[name]) for name in one}


def _python_loop() -> int:
    total = 0
    for number in range(LOOPS):
        total += number & 7
    return total


def rehearse_torch(device: str) -> None:
    """One tiny training step, so that what torch loads on first use is nobody's peak memory.

    Lazy imports of the optimisers alone take 70 MiB, a cuBLAS workspace 32 MiB: whichever
    benchmark came first would have paid, and another one with -k.
    """
    import torch

    image = torch.ones(2, 3, 8, 8, device=device)
    kernel = torch.full((4, 3, 3, 3), 0.1, device=device, requires_grad=True)
    weight = torch.full((8, 144), 0.1, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([kernel, weight])
    features = torch.nn.functional.conv2d(image, kernel).relu().flatten(1)
    torch.nn.functional.linear(features, weight).square().mean().backward()
    optimizer.step()


def _torch_kernels(device: str) -> dict[str, Kernel]:
    import torch

    # Constants instead of random numbers: a canary must not touch the benchmark's generators.
    size, dtype = (2048, torch.bfloat16) if device == "cuda" else (768, torch.float32)
    matrix = torch.full((size, size), 0.5, dtype=dtype, device=device)
    product = torch.empty_like(matrix)
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {
        "matmul": lambda: torch.mm(matrix, matrix, out=product),
        "copy": lambda: target.copy_(source),
    }
