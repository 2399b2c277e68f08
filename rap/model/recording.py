"""What compiling and recording share: telling of the wait, a stream, what to do when they fail."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from rap import log

_ASIDE = (LookupError, AttributeError)
"""How code asks whether something is there; no cause of what follows."""


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of a device on which a training's steps are recorded, for all of a process.

    cuBLAS keeps a workspace for each stream and thread for good, on Hopper 32 MiB.
    """
    return torch.cuda.Stream(device)


@contextmanager
def compiling(what: str) -> Iterator[None]:
    """Tell of a wait for the compiler before it begins, and how long it was.

    Whoever catches a failure tells of it.
    """
    log.info(f"torch.compile compiles {what}; the next step waits for it, minutes without a cache")
    start = time.perf_counter()
    yield
    log.info(f"torch.compile took {time.perf_counter() - start:.1f} s")


def free_generator(device: torch.device) -> None:
    """Give the default generator a new state: a recording that broke off leaves it waiting.

    Recordings made before draw from the old state from now on.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    generator = torch.cuda.default_generators[index]
    generator.graphsafe_set_state(generator.clone_state())


def root_cause(error: BaseException) -> BaseException:
    """The error that began it: a recording ends with one that only says that there was another."""
    while True:
        before = error.__cause__
        if before is None and not error.__suppress_context__:
            before = error.__context__
        if before is None or isinstance(before, _ASIDE):
            return error
        error = before


def in_a_line(error: BaseException) -> str:
    """Kind and first line of the error that began it."""
    error = root_cause(error)
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def pass_on_out_of_memory(error: Exception) -> None:
    """Raise an error that only less memory would avoid, also where it began another one."""
    cause = root_cause(error)
    if isinstance(cause, torch.OutOfMemoryError):
        raise cause
