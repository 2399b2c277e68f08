"""One comparison at a time on a host: two at once would each measure the other."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.environments import SetupError

NAME = "benchmarks.lock"
FIXED = Path("/tmp")
"""Whoever measures on this host must find the same file: not TMPDIR, which anybody may set."""
VARIABLE = "BENCHMARK_LOCK_DIR"
"""Another folder, for tests, and for containers that share a host and a volume."""


def home() -> Path:
    """Where every comparison on this host looks: BENCHMARK_LOCK_DIR, else /tmp, else TMPDIR."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    return FIXED if FIXED.is_dir() and os.access(FIXED, os.W_OK) else Path(tempfile.gettempdir())


@contextmanager
def alone() -> Iterator[None]:
    """Hold this host's lock; SetupError (exit code 11) where another comparison has it.

    The kernel lets go of it when its holder dies, however that happens; the file itself stays.
    """
    handle = claim()
    try:
        yield
    finally:
        os.close(handle)


def claim() -> int:
    """Hold this host's lock until the file that is returned is closed; SetupError as in `alone`."""
    path = home() / NAME
    handle = _open(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.read(handle, 32).decode(errors="replace").strip()
        os.close(handle)
        raise SetupError(
            f"another comparison is running on this machine (process {pid or 'unknown'}, {path}): "
            "wait for it, or measure elsewhere"
        ) from error
    if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
    return handle


def _open(path: Path) -> int:
    """The file, whoever made it: the lock needs no right to write it; SetupError without a file."""
    for flags in (os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        try:
            handle = os.open(path, flags | os.O_NOFOLLOW, 0o666)
        except (FileNotFoundError, PermissionError) as error:
            refused = error
            continue
        except OSError as error:
            raise SetupError(f"{path}: is no file to lock ({error.strerror})") from error
        if os.fstat(handle).st_uid == os.geteuid():  # whatever the umask: the next user's, too
            os.fchmod(handle, 0o666)
        return handle
    raise SetupError(
        f"{path}: cannot be opened ({refused.strerror}), so nobody knows whether another "
        f"comparison is running: remove it, or set {VARIABLE} to a folder that all users share"
    ) from refused
