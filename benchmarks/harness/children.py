"""Processes that we start: nothing of them outlives us, however we are stopped."""

import importlib.util
import math
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from benchmarks.harness.progress import Follower, Tell
from benchmarks.harness.verdict import Code

TIMEOUT_S = 1800.0
LOOK_EVERY_S = 0.2
DYING_S = 30.0
"""What is killed may wait for a disk before it dies; after that we go on all the same."""
PROC = Path("/proc")
NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
BYTECODE = "pycache"
LOG = "process.log"
"""What the last process of a folder printed: it stays, however that ended."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a time limit, a terminal that was closed."""


def with_bytecode(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """An environment whose processes keep compiled Python in `folder`, where nobody else does.

    Where torch is installed for reading only, or Python writes no bytecode, every process compiles
    torch's sources again: 8 of the 12 s that one took to start on an H200 machine.
    """
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None or Path(torch.origin).suffix != ".py":
        return dict(environment)
    if Path(importlib.util.cache_from_source(torch.origin)).exists():
        return dict(environment)
    kept = {name: value for name, value in environment.items() if name != NO_BYTECODE}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder.resolve())}


def run_process(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path,
    timeout: float = TIMEOUT_S, tell: Tell | None = None,
) -> tuple[int, str]:  # fmt: skip
    """Run to the end; exit code and what it printed. Nothing but `log` outlives this call.

    `tell` hears meanwhile which benchmark runs.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w+", encoding="utf-8", errors="replace") as printed, uninterrupted() as stops:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=printed,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        note = ""
        follower = None if tell is None else Follower(printed.fileno(), tell)
        try:
            code = _wait(process, timeout, stops, follower)
        except subprocess.TimeoutExpired:
            code, note = int(Code.ENVIRONMENT), f"\nstopped after {timeout:.0f} s ({log})"
        finally:
            _stop(process)
        printed.seek(0)
        text = printed.read()
    return code, text + note


def run_apart(command: Sequence[str], folder: Path) -> int:
    """Run to the end in a session of its own; its exit code.

    A terminal's Ctrl-C does not reach it there: it is told once, by us, and removes what it made.
    """
    with uninterrupted() as stops:
        process = subprocess.Popen(command, cwd=folder, start_new_session=True)
        try:
            return _wait(process, math.inf, stops)
        except subprocess.TimeoutExpired:  # we are stopped
            process.terminate()
            return process.wait()


def _wait(
    process: "subprocess.Popen[bytes]", timeout: float, stops: Sequence[int],
    follower: Follower | None = None,
) -> int:  # fmt: skip
    """Its exit code; TimeoutExpired where it takes longer, or where a stop came."""
    end = time.monotonic() + timeout
    while True:
        left = end - time.monotonic()
        try:
            return process.wait(max(0.0, min(LOOK_EVERY_S, left)))
        except subprocess.TimeoutExpired:
            if left <= 0 or stops:
                raise
        finally:
            if follower is not None:
                follower.look()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a process and what it started; loading workers would go on measuring nothing.

    Those are not ours to wait for, and still write for a moment where we are about to clean up.
    """
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # the whole group has ended
        return
    finally:
        process.wait()
    end = time.monotonic() + DYING_S
    while _is_alive(process.pid) and time.monotonic() < end:
        time.sleep(0.01)


def _is_alive(group: int) -> bool:
    """Whether any process of a group runs still; False where the system does not tell."""
    for path in PROC.glob("[0-9]*/stat"):
        try:
            told = path.read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended
            continue
        state, _, its_group = told.rpartition(")")[2].split()[:3]
        if int(its_group) == group and state not in ("Z", "X"):
            return True
    return False


@contextmanager
def terminable() -> Iterator[None]:
    """Every way of being stopped cleans up as Ctrl-C does, once: no second one interrupts that.

    What was ignored before (`nohup`) stays ignored. Within another `terminable` this does nothing.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    kept = (signal.SIG_IGN, _interrupt, None)
    ours = {number: handler for number, handler in before.items() if handler not in kept}
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[Sequence[int]]:
    """A stop that comes within waits for the end; gives the stops that have come so far.

    What is made within is known to who removes it, and what is waited for is waited for in turns:
    an exception out of nowhere would leave the locks of `subprocess` held, too.
    """
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    ours = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in ours:
        signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield came
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


@contextmanager
def passing_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder that is gone afterwards, in whichever moment we are stopped.

    `tempfile.TemporaryDirectory` leaves its folder where Ctrl-C comes while it is made or removed.
    """
    with terminable():
        folder = None
        try:
            with uninterrupted():
                folder = Path(tempfile.mkdtemp(prefix=prefix))
            yield folder
        finally:
            if folder is not None:
                try:
                    _remove(folder)
                except KeyboardInterrupt:  # the one stop that is heard: it came before the removal
                    _remove(folder)
                    raise


def _remove(folder: Path) -> None:
    with uninterrupted():
        if folder.exists():
            shutil.rmtree(folder)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
