"""What people see while something runs: a console, progress with a rate, tables, a log file."""

import glob
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

console = Console(stderr=True, highlight=False)
LINE_EVERY_S = 30.0
_ANY_WIDTH = 1000


@runtime_checkable
class Ticker(Protocol):
    """Advances a progress bar; keyword values are shown beside it."""

    def __call__(self, num: int = 1, **shown: float | str) -> None:
        """Count `num` finished items and show the given values."""
        ...


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        return Text(f"{task.speed:,.1f} {unit}/s" if task.speed else f"- {unit}/s")


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Ticker]:
    """A bar with a rate in `unit` per second; a line every 30 s where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
        TimeRemainingColumn(), TextColumn("{task.fields[shown]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total, unit=unit, shown="")
        start = reported = time.monotonic()
        done, text = 0, ""

        def tick(num: int = 1, **shown: float | str) -> None:
            nonlocal done, reported, text
            done += num
            if shown:
                text = "  ".join(
                    f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()
                )
            bar.update(task, advance=num, shown=text)
            now = time.monotonic()
            if not console.is_terminal and now - reported >= LINE_EVERY_S:
                reported = now
                rate = done / (now - start)
                info(f"{description}: {done} of {total}, {rate:,.1f} {unit}/s  {text}".rstrip())

        yield tick


def info(message: str) -> None:
    """One line for the person at the terminal, on stderr."""
    console.print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """One line that should not be missed."""
    console.print(f"warning: {message}", markup=False, soft_wrap=True, style="yellow")


def error(message: str) -> None:
    """One line about what makes the results mean nothing."""
    console.print(f"error: {message}", markup=False, soft_wrap=True, style="red")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A small table on stderr, numbers right-aligned by the caller's formatting.

    Cells that a terminal is too narrow for go on in a further line; a file takes any width.
    """
    grid = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(str(cell) for cell in row))
    if console.is_terminal:
        console.print(grid)
        return
    wanted = console.measure(grid, options=console.options.update(max_width=_ANY_WIDTH)).maximum
    wide = Console(file=console.file, highlight=False, width=max(wanted, console.width))
    wide.print(grid)


def append_json(path: Path, record: dict[str, object]) -> None:
    """Add one line to a JSON-lines file and flush it, so that a killed run keeps its log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, sort_keys=True) + "\n")


def temporary_beside(path: Path) -> Path:
    """Where this process writes what is to become `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sweep(folder: Path, stem: str = "") -> None:
    """Remove temporaries in a folder whose processes were killed; those of others stay.

    With `stem` only those of files STEM.*, in a folder that others write to, too. For when nothing
    is being written by this process: its number may be that of a killed one.
    """
    for path in folder.glob(f".{glob.escape(stem)}.*.tmp" if stem else ".*.tmp"):
        match = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if match is None or _runs_beside(int(match[1])):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _runs_beside(pid: int) -> bool:
    """Whether another process of this number runs on this machine."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends without an error."""
    temporary = temporary_beside(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
