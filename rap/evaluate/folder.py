"""A report's folder: it appears whole, in place of an older report and of nothing else."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rap.log import temporary_beside

REPORT_NAMES = frozenset(
    {"metrics.json", "errors.csv", "poses.tum", "images.txt", "poses", "trajectory.png"}
)
"""All that a report consists of."""


def check_report_folder(path: Path) -> None:
    """Raise FileExistsError unless a report may take the place of what is there.

    That is nothing, an empty folder or an older report: other files would be lost.
    """
    if not path.exists():
        return
    if path.resolve().is_mount():
        raise _refusal(path, "a file system begins there; name a folder inside it")
    others = sorted({entry.name for entry in path.iterdir()} - REPORT_NAMES)
    if others:
        raise _refusal(path, f"holds {others[0]}, which no report does; name another folder")


@contextmanager
def replacing_report(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that takes its place when the block ends without an error.

    What was there before stays until then, and none of it afterwards.
    """
    check_report_folder(path)
    # A link stays one: what it leads to is replaced.
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = temporary_beside(path), temporary_beside(path.with_name(f"{path.name}.old"))
    for left_over in (new, old):  # by a killed process that had the number of this one
        shutil.rmtree(left_over, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _refusal(path: Path, reason: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, reason, str(path))
