"""What this machine can do at best, measured in the session whose numbers are held against it.

A data sheet's bandwidth is reached by nobody, and a throttled or shared device reaches less: so the
ceilings are a plain copy and a plain matrix product, the best of a few rounds.
"""

from collections.abc import Callable, Mapping

from benchmarks.harness.cache import last_level_cache_bytes
from benchmarks.harness.clock import cuda_clock, host_clock
from benchmarks.harness.record import Record

ROUNDS = 5
GPU_COPY_BYTES = 512 << 20
GPU_SIZE, CPU_SIZE = 8192, 1024
RATES = {"bytes": "bytes_per_s", "flop": "flop_per_s"}
"""What a benchmark declares, and the ceiling that it is held against."""


def measure_ceilings(device: str) -> dict[str, float]:
    """Bytes read and written per second by a copy, and FLOP per second by a matrix product.

    On the GPU bf16, the rate of its tensor cores; on the CPU fp32 and one thread, as benchmarks.
    """
    import torch

    on_gpu = device == "cuda"
    # Several times the last-level cache, which would answer instead of the memory.
    num_bytes = GPU_COPY_BYTES if on_gpu else max(64 << 20, 2 * last_level_cache_bytes())
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = _best_s(lambda: target.copy_(source), on_gpu)
    del source, target
    size, dtype = (GPU_SIZE, torch.bfloat16) if on_gpu else (CPU_SIZE, torch.float32)
    matrix = torch.full((size, size), 0.01, dtype=dtype, device=device)
    product = torch.empty_like(matrix)
    product_s = _best_s(lambda: torch.mm(matrix, matrix, out=product), on_gpu)
    return {"bytes_per_s": 2 * num_bytes / copy_s, "flop_per_s": 2 * size**3 / product_s}


def _best_s(kernel: Callable[[], object], on_gpu: bool) -> float:
    """The shortest of a few rounds, after one that is not counted."""
    clock = cuda_clock if on_gpu else host_clock
    rounds = [clock(kernel, 1)[1] for _ in range(1 + ROUNDS)][1:]
    return min(min(taken.gpu_s) if taken.gpu_s else taken.wall_s for taken in rounds)


def shares(record: Record, ceilings: Mapping[str, float]) -> dict[str, float]:
    """Of each ceiling, the share that a benchmark's time amounts to: `bytes` and `flop`."""
    seconds = record.metrics.get("gpu_s", record.metrics.get("time_s", 0.0))
    if seconds <= 0:
        return {}
    return {
        name: amount / seconds / ceilings[RATES[name]]
        for name, amount in record.work.items()
        if ceilings.get(RATES[name], 0.0) > 0
    }
