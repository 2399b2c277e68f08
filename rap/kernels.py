"""Whether a Triton kernel works on this machine, found by running it; and running out of memory."""

import importlib
from collections.abc import Callable
from importlib import util
from subprocess import CalledProcessError
from types import ModuleType

import torch


def failure(module: str, attempt: Callable[[ModuleType], object]) -> str | None:
    """What stops an attempt with a module of Triton kernels, in one line; none: nothing does.

    Triton compiles a launcher where it runs, so a missing C compiler or Python header shows here.
    Out of memory is raised on: it says nothing about the kernel, and may pass.
    """
    if util.find_spec("triton") is None:
        return "no triton installed"
    try:
        kernel = importlib.import_module(module)
    except (ImportError, RuntimeError, OSError) as error:
        return _one_line(error)
    try:
        attempt(kernel)
    # Triton's own errors are of no standard kind: a GPU it does not know, too few registers
    except (
        kernel.triton.TritonError, ImportError, RuntimeError, OSError, CalledProcessError
    ) as error:  # fmt: skip
        if isinstance(error, RuntimeError) and ran_out(error):
            raise
        return _one_line(error)
    return None


def ran_out(error: RuntimeError) -> bool:
    """Whether memory is the cause; extensions and the CPU's allocator say so in words alone."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
    )


def _one_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or repr(error)
