"""A damaged copy of the harness, and whether the tests that guard it notice."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UNFINISHED = shutil.ignore_patterns("*.pyc.*")
"""What another process is compiling: gone when it would be copied."""


def require_killed(folder: Path, file: str, line: str, mutant: str, guards: Sequence[str]) -> None:
    """AssertionError unless tests fail once `line` of a file of the harness is `mutant`.

    `guards` are the files of those tests in tests/harness.
    """
    for copied in (Path("benchmarks"), Path("tests") / "harness"):
        shutil.copytree(ROOT / copied, folder / copied, ignore=UNFINISHED)
    shutil.copy(ROOT / "pyproject.toml", folder)
    path = folder / "benchmarks" / "harness" / file
    source = path.read_text(encoding="utf-8")
    assert source.count(line) == 1, f"{file} has changed: choose another line for this mutant"
    path.write_text(source.replace(line, mutant), encoding="utf-8")
    files = [str(Path("tests") / "harness" / name) for name in guards]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
               "--hypothesis-profile=ci", "-m", "not slow", *files]  # fmt: skip
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert "passed" in done.stdout or "failed" in done.stdout
