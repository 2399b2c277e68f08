"""One comparison at a time on a host: two at once would each measure the other."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.environments import SetupError

NAME = "benchmarks.lock"


def home() -> Path:
    """Where every comparison on this host looks for the lock."""
    return Path(tempfile.gettempdir())


@contextmanager
def alone() -> Iterator[None]:
    """Hold this host's lock; SetupError (exit code 11) where another comparison has it.

    The kernel lets go of it when its holder dies, however that happens; the file itself stays.
    """
    path = home() / NAME
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.read(handle, 32).decode(errors="replace").strip()
            raise SetupError(
                f"another comparison is running on this machine (process {pid}, {path}): "
                "wait for it, or measure elsewhere"
            ) from error
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(handle)
