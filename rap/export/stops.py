"""Ctrl-C, SIGTERM and SIGHUP while files and processes are ours to remove."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program as SystemExit does: what it has begun is removed.

    Handlers of the program's own, and signals that it ignores (`nohup`), stay as they are. Outside
    the main thread, which alone hears signals, this does nothing.
    """
    ours = [number for number in _heard() if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def held() -> Iterator[Sequence[int]]:
    """A stop that comes within waits for the end; gives the stops that have come so far.

    So a process is known to who ends it from the moment it starts.
    """
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _heard()}
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


def _heard() -> Sequence[signal.Signals]:
    return SIGNALS if threading.current_thread() is threading.main_thread() else ()


def _end(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # `timeout` and terminals send it twice
    raise SystemExit(128 + number)
