"""Joining the processes that torchrun has started, and ending all of them when one ends.

    torchrun --nproc-per-node 4 -m rap train SCENE --splat splat.ply -o run/

Rank 0 alone talks, until a rank fails: then the first to find that out says so, once, and the
others end in silence. torchrun ends those that wait for a GPU that waits for the rank that is gone.
"""

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from rap import log
from rap.config import ConfigError
from rap.evaluate import pick_device
from rap.train.distributed import RankError

TIMEOUT = timedelta(minutes=10)
"""Longer than one rank may wait for another that compiles."""
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_ENDED_BY_SIGNAL = 128 + signal.SIGTERM


class _Voice:
    """Lets one of the ranks talk about a failure, and one of its threads."""

    def __init__(self, store: dist.Store) -> None:
        self._store = store
        self._first = threading.Lock()

    @property
    def failing(self) -> bool:
        """Whether something has failed here."""
        return self._first.locked()

    def take(self) -> bool:
        """Called when something has failed: the first rank may talk, the others fall silent.

        False where another thread of this process is telling it already.
        """
        if not self._first.acquire(blocking=False):
            return False
        try:
            log.console.quiet = self._store.add("failed", 1) > 1
        except RuntimeError:  # whoever keeps the count has ended
            log.console.quiet = False
        return True


@contextmanager
def joined(device: str, advice: str) -> Iterator[str]:
    """Join the processes that torchrun started with this one; gives this process's device.

    Without torchrun the device is the given one and nothing else happens. `advice` is what to do
    after another rank has ended. Raises ConfigError for surroundings that do not fit together, and
    inside the block RankError when another rank has ended.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    rank, world, local = _place()
    chosen = _own_device(device, local)
    store, _, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))
    voice = _Voice(dist.PrefixStore("rap", store))
    log.console.quiet = rank > 0
    backend = "nccl" if chosen.startswith("cuda") else "gloo"
    with _ending_on_signal(voice, advice):
        try:
            # Told its GPU, NCCL connects now, and not within the first recording of a step.
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT,
                device_id=torch.device(chosen) if backend == "nccl" else None,
            )  # fmt: skip
            log.info(f"{world} processes work together over {backend}")
            yield chosen
        except BaseException as error:
            if not voice.take():
                threading.Event().wait()  # until the thread that tells it ends this process
            if isinstance(error, RankError):
                raise RankError(f"{error}; {advice}") from error
            raise
        # NCCL waits for the end of every recorded graph that uses it.
        gc.collect()
        dist.destroy_process_group()


def _place() -> tuple[int, int, int]:
    """Rank, number of ranks, and rank on this host, as torchrun says them."""
    missing = [name for name in _NAMES if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE = {os.environ['WORLD_SIZE']} but {', '.join(missing)} is not set: start "
            "several processes with torchrun, or unset WORLD_SIZE"
        )
    rank, world, local = (int(os.environ[name]) for name in _NAMES[:3])
    return rank, world, local


def _own_device(device: str, local: int) -> str:
    if pick_device(device).type != "cuda":
        return "cpu"
    if local >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local} of this host needs a GPU of its own, torch sees "
            f"{torch.cuda.device_count()}: torchrun --nproc-per-node {torch.cuda.device_count()}"
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


@contextmanager
def _ending_on_signal(voice: _Voice, advice: str) -> Iterator[None]:
    """SIGTERM ends this process with one line, even while its main thread waits for a GPU.

    Python's own handlers wait for the main thread; the file descriptor that they write to does not.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        while (number := os.read(reading, 1)) and number[0] != signal.SIGTERM:
            pass
        if number and voice.take():
            try:
                log.info(f"rap: error: told to end, as when another rank has ended; {advice}")
            finally:
                os._exit(_ENDED_BY_SIGNAL)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    descriptor = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        if not voice.failing:
            signal.set_wakeup_fd(descriptor)
            signal.signal(signal.SIGTERM, before)
            os.close(writing)
            watcher.join()
            os.close(reading)
