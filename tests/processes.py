"""Other processes in tests: what they do is waited for, however slow the machine is."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 900.0
"""For what never comes: a test that is broken ends then; a slow machine needs a part of it."""

HOLDING = """
import os, time
from rap import log

def append_json(path, record, append=log.append_json):
    append(path, record)
    while record["epoch"] == {epoch} and not os.path.exists({released!r}):
        time.sleep(0.01)

log.append_json = append_json
"""


def holding(epoch: int, released: Path) -> str:
    """Code before a training: when an epoch is logged, its writer waits until a file is there.

    The training itself goes on, to the next epoch's end: it cannot end before it is stopped.
    """
    return HOLDING.format(epoch=epoch, released=str(released))


def wait_until(done: Callable[[], object], process: subprocess.Popen[Any] | None = None) -> None:
    """Return when something is true; AssertionError where a process ends without making it so."""
    end = time.monotonic() + PATIENCE_S
    while True:
        ended = process is not None and process.poll() is not None
        if done():
            return
        assert not ended, "the process has ended"
        assert time.monotonic() < end, f"still waiting after {PATIENCE_S:.0f} s"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent's look does not."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # the second where it ends while we read
        return False
    return "State:\tZ" not in status


def run_interpreted(file: str, *words: str) -> Any:  # noqa: ANN401 (whatever the file says)
    """The JSON that a test's file prints when it is run where Triton interprets its kernels.

    Its interpreter is chosen when Triton is imported, hence a process of its own. Skips without it.
    """
    if util.find_spec("triton") is None:
        pytest.skip("no triton installed")
    root = Path(__file__).parents[1]
    found = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    run = subprocess.run(
        [sys.executable, file, *words], check=True, text=True, capture_output=True, cwd=root,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": found},
    )  # fmt: skip
    return json.loads(run.stdout)
