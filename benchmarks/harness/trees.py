"""The trees of an A/B: each arm's own package under the judge's benchmarks, copied side by side.

An arm is the working directory of its processes, because `pythonpath = ["."]` puts the rootdir
first: with only PYTHONPATH set, the base arm would silently import the head's package.
"""

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from benchmarks.harness.children import passing_folder
from benchmarks.harness.commit import (
    BASELINES,
    DIRTY,
    JUDGED,
    STAMP,
    commit_of,
    edited,
    write_stamp,
)
from benchmarks.harness.subject import PACKAGE, digest_of

PREFIX = "benchmarks-ab-"
SKIPPED = ("__pycache__", "*.pyc", ".benchmarks")


class TreeError(ValueError):
    """A tree that cannot be made: unknown revision, patch that does not apply, no package."""


@dataclass(frozen=True)
class Source:
    """Where an arm's code comes from."""

    folder: Path
    label: str
    """For people: `working tree (dirty)`, `origin/main`."""
    commit: str

    @property
    def edits(self) -> tuple[str, ...]:
        """A note where it is an export that was edited, and where."""
        parts = edited(self.folder)
        return (f"{self.label}: edited since its export: {', '.join(parts)}",) if parts else ()


@dataclass(frozen=True)
class Arm:
    """A composed tree, ready to be measured."""

    root: Path
    label: str
    commit: str
    digest: str
    """Of the package: what its processes must prove to have measured."""


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for trees that is gone afterwards; those of killed runs are removed, too."""
    home = Path(tempfile.gettempdir())
    for old in home.glob(f"{PREFIX}*"):
        pid = old.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(old, ignore_errors=True)
    with passing_folder(f"{PREFIX}{os.getpid()}-") as folder:
        yield folder


def working_tree(root: Path) -> Source:
    """The checkout as it is on disk, dirty or not."""
    _require_package(root, "the working tree")
    commit = commit_of(root)
    return Source(root, f"working tree{' (dirty)' if commit.endswith(DIRTY) else ''}", commit)


def named_tree(root: Path, name: str, folder: Path) -> Source:
    """A folder that holds an exported tree, or a commit, which is extracted into `folder`."""
    path = Path(name).expanduser()
    if (path / PACKAGE).is_dir():
        return Source(path.resolve(), f"folder {name}", exported_commit(path))
    commit = ask_git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if commit is None:
        raise TreeError(
            f"{name!r} is neither a commit of {root} nor a folder that holds {PACKAGE}/; "
            "without git history export a tree first: python -m benchmarks export FOLDER"
        )
    extract(root, commit, folder)
    _require_package(folder, f"commit {name}")
    return Source(folder, name, commit[:12])


def exported_commit(folder: Path) -> str:
    """The commit of an export, from its stamp; `unknown` without one."""
    if (folder / STAMP).exists() or (folder / ".git").exists():
        return commit_of(folder, given="")
    return "unknown"


def patched_tree(source: Source, patch: Path, folder: Path) -> Source:
    """A copy of a tree with a patch; TreeError where it does not apply or changes nothing."""
    if not patch.is_file():
        raise TreeError(f"--patch {patch}: no such file")
    copy_tree(source.folder, folder)
    wanted = [f"--include={name}{'/*' if '.' not in name else ''}" for name in (PACKAGE, *JUDGED)]
    command = ["git", "apply", "--whitespace=nowarn", *wanted, str(patch.resolve())]
    # Inside a repository git would take the paths as the repository's and skip them.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.resolve().parent)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise TreeError(f"--patch {patch} does not apply to {source.label}: {done.stderr.strip()}")
    if all(_same(source.folder / name, folder / name) for name in (PACKAGE, *JUDGED)):
        raise TreeError(f"--patch {patch} changes neither {PACKAGE}/ nor benchmarks/")
    return Source(folder, f"{source.label} + {patch.name}", f"{source.commit}+{patch.name}")


def compose(code: Source, judge: Path, folder: Path) -> Arm:
    """An arm: the package of one tree, benchmarks and settings of another."""
    folder.mkdir(parents=True)
    _copy(code.folder / PACKAGE, folder / PACKAGE)
    for name in JUDGED:
        _copy(judge / name, folder / name, BASELINES)
    return Arm(folder, code.label, code.commit, digest_of(folder / PACKAGE))


def copy_tree(source: Path, folder: Path) -> None:
    """The parts of a tree that arms need, copied to a new folder."""
    folder.mkdir(parents=True)
    for name in (PACKAGE, *JUDGED):
        _copy(source / name, folder / name)


def extract(root: Path, commit: str, folder: Path) -> None:
    """The parts of a commit that arms need, written to `folder`."""
    command = ["git", "-C", str(root), "archive", "--format=tar", commit]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        raise TreeError(f"git archive {commit}: {done.stderr.decode(errors='replace').strip()}")
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        wanted = [
            member for member in archive
            if member.name.partition("/")[0] in (PACKAGE, *JUDGED)
        ]  # fmt: skip
        try:
            archive.extractall(folder, wanted, filter="data")
        except tarfile.TarError as error:
            raise TreeError(f"commit {commit} cannot be extracted: {error}") from error
    write_stamp(folder, commit[:12])


def _require_package(folder: Path, what: str) -> None:
    if not (folder / PACKAGE).is_dir():
        raise TreeError(f"{what} has no {PACKAGE}/: there is nothing to measure")


def _copy(source: Path, target: Path, *skipped: str) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*SKIPPED, *skipped))
    elif source.exists():
        shutil.copy2(source, target)


def _same(one: Path, other: Path) -> bool:
    if one.is_dir():
        return digest_of(one) == digest_of(other)
    return one.exists() == other.exists() and (
        not one.exists() or one.read_bytes() == other.read_bytes()
    )


def ask_git(root: Path, *arguments: str) -> str | None:
    """What git says about a checkout; None where it fails, or is not there."""
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None
