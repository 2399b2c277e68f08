"""Processes that we start: nothing of them outlives us, however we are stopped."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from benchmarks.harness.progress import Follower, Tell
from benchmarks.harness.verdict import Code

TIMEOUT_S = 1800.0
LOOK_EVERY_S = 0.5
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
    with log.open("w+", encoding="utf-8", errors="replace") as printed, ExitStack() as stack:
        with uninterrupted():
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=printed,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            stack.callback(_stop, process)
        note = ""
        follower = None if tell is None else Follower(printed.fileno(), tell)
        try:
            code = _wait(process, timeout, follower)
        except subprocess.TimeoutExpired:
            code, note = int(Code.ENVIRONMENT), f"\nstopped after {timeout:.0f} s ({log})"
        stack.close()
        printed.seek(0)
        text = printed.read()
    return code, text + note


def _wait(process: "subprocess.Popen[bytes]", timeout: float, follower: Follower | None) -> int:
    """Its exit code; TimeoutExpired where it takes longer."""
    if follower is None:
        return process.wait(timeout)
    end = time.monotonic() + timeout
    while True:
        left = end - time.monotonic()
        try:
            return process.wait(max(0.0, min(LOOK_EVERY_S, left)))
        except subprocess.TimeoutExpired:
            if left <= 0:
                raise
        finally:
            follower.look()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a process and what it started; loading workers would go on measuring nothing."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # the whole group has ended
        return
    finally:
        process.wait()


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
def uninterrupted() -> Iterator[None]:
    """A stop that comes within waits for the end: what is made here is known to who removes it."""
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    ours = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in ours:
        signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
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
    with ExitStack() as stack:
        with uninterrupted():
            folder = Path(tempfile.mkdtemp(prefix=prefix))
            stack.callback(_remove, folder)
        yield folder


def _remove(folder: Path) -> None:
    with uninterrupted():
        shutil.rmtree(folder)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
