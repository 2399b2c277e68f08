"""A cold cache: a buffer larger than the last-level cache is written before each round."""

import ctypes
from collections.abc import Callable
from pathlib import Path

DEFAULT_CACHE_BYTES = 64 << 20
CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNITS = {"K": 1 << 10, "M": 1 << 20}


class Flush:
    """Writes twice the last-level cache, after what the benchmark itself does before a round."""

    def __init__(self, device: str, before_round: Callable[[], object] | None) -> None:
        self._before_round = before_round
        if device == "cuda":
            import torch

            self.num_bytes = 2 * torch.cuda.get_device_properties(0).L2_cache_size
            buffer = torch.empty(self.num_bytes, dtype=torch.uint8, device="cuda")
            self._write: Callable[[], object] = buffer.zero_
        else:
            self.num_bytes = 2 * last_level_cache_bytes()
            block = (ctypes.c_char * self.num_bytes)()
            self._write = lambda: ctypes.memset(block, 1, self.num_bytes)
            self._write()  # its pages count from now on, when the caller leaves them out

    def __call__(self) -> None:
        """Prepare one round, outside its span."""
        if self._before_round is not None:
            self._before_round()
        self._write()


def last_level_cache_bytes(caches: Path = CPU_CACHES) -> int:
    """The largest cache of the first core; 64 MiB where the system does not tell."""
    sizes = [path.read_text(encoding="ascii").strip() for path in caches.glob("index*/size")]
    known = [int(size[:-1]) * UNITS[size[-1]] for size in sizes if size[-1:] in UNITS]
    return max(known, default=DEFAULT_CACHE_BYTES)
