"""Of which commit a tree is: by its history, else by the stamp of its export, else as it is told.

The stamp holds what the tree held: a package, a benchmark or a setting that was edited since must
not be measured, accepted or judged under the name of a clean commit.
"""

import hashlib
import os
import subprocess
from pathlib import Path

from benchmarks.harness.subject import DIGEST_LENGTH, PACKAGE, digest_of

JUDGED = ("benchmarks", "conftest.py", "pyproject.toml")
"""What the judge brings; the package is the arm's."""
BASELINES = "baselines"
"""Stored numbers are no business of an arm, which only measures; `accept` writes them anywhere."""
STAMP = ".commit"
"""In an exported tree, which has no history: the commit that it came from, and what it held."""
DIRTY = "+dirty"
"""After the commit of a tree whose code is not that commit's."""


class StampError(ValueError):
    """A stamp that does not say enough to be believed."""


def commit_of(root: Path, given: str | None = None) -> str:
    """The commit of a tree, `+dirty` where its code is another; StampError for an older stamp.

    Git says it where there is a history, else the stamp that `python -m benchmarks export` writes.
    Only a tree with neither is believed what `given`, or BENCHMARK_COMMIT, says of it: it cannot be
    checked.
    """
    commit = _from_history(root)
    if commit is not None:
        return commit
    commit, _ = _read_stamp(root)
    if commit:
        return f"{commit}{DIRTY}" if edited(root) and not commit.endswith(DIRTY) else commit
    given = os.environ.get("BENCHMARK_COMMIT") if given is None else given
    return given or "unknown"


def write_stamp(folder: Path, commit: str) -> None:
    """Say of which commit a tree without history is, and what it held then."""
    digests = _digests(folder)
    # Harnesses of older commits read the first two words, and judge where they are the base's.
    parts = [f"{name}={digests[name]}" for name in JUDGED]
    text = " ".join([commit, digests[PACKAGE], *parts])
    (folder / STAMP).write_text(f"{text}\n", encoding="utf-8")


def edited(root: Path) -> tuple[str, ...]:
    """What of an exported tree is no longer as it was exported; empty where git would know."""
    if (root / ".git").exists():
        return ()
    commit, stamped = _read_stamp(root)
    digests = _digests(root)
    return tuple(name for name in (PACKAGE, *JUDGED) if commit and digests[name] != stamped[name])


def _read_stamp(root: Path) -> tuple[str, dict[str, str]]:
    """The commit of a stamp and the digest of each part; nothing where there is no stamp."""
    path = root / STAMP
    commit, digest, *others = [*(path.read_text("utf-8").split() if path.is_file() else ()), "", ""]
    stamped = {PACKAGE: digest} | dict(part.split("=", 1) for part in others if "=" in part)
    missing = [name for name in (PACKAGE, *JUDGED) if not stamped.get(name)]
    if commit and missing:
        raise StampError(
            f"{path}: an export of an older version, which does not say what {', '.join(missing)} "
            f"held: write it again with python -m benchmarks export FOLDER {commit}"
        )
    return commit, stamped


def _digests(root: Path) -> dict[str, str]:
    """Of each part of a tree that is measured or measures."""
    return {
        PACKAGE: digest_of(root / PACKAGE),
        **{name: _digest(root / name) for name in JUDGED},
    }


def _digest(path: Path) -> str:
    if path.is_dir():
        return digest_of(path, BASELINES)
    content = path.read_bytes() if path.is_file() else b""
    return hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]


def _from_history(root: Path) -> str | None:
    """What git says of a tree; None where it has no history, or lies untracked in another's."""
    try:
        if not (root / ".git").exists() and not _git(root, "ls-files", "--", PACKAGE):
            return None
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        # A new module or benchmark is measured, too, long before it is added.
        stored = f":(exclude)benchmarks/{BASELINES}"
        changed += _git(root, "status", "--porcelain", "--", PACKAGE, *JUDGED, stored)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}{DIRTY}" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
