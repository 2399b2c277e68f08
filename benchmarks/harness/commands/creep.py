"""`python -m benchmarks creep`: what small losses have added up to, in the history of baselines."""

import sys
from argparse import Namespace
from pathlib import Path

from benchmarks.harness.baseline import COMMITTED, Baseline, read_baseline
from benchmarks.harness.children import passing_folder
from benchmarks.harness.commands import Subparsers, UsageError
from benchmarks.harness.creep import BUDGET, changes, overruns
from benchmarks.harness.judging import is_required
from benchmarks.harness.machine import resolve_device, this_machine
from benchmarks.harness.policy import read_policy
from benchmarks.harness.record import RecordError
from benchmarks.harness.suite import POLICY
from benchmarks.harness.trees import ask_git
from benchmarks.harness.verdict import Code, gravest

JSON = [".json"]
"""Beside baselines lie calibrations, `SUITE.calibration.json`."""


def add(subparsers: Subparsers) -> None:
    """The command line of `creep`."""
    parser = subparsers.add_parser("creep", help="lasting changes since the first baseline")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--key", help="hardware key; default: this machine's")
    parser.add_argument("--suite", default="room")
    parser.add_argument("--all", action="store_true", help="every committed baseline")
    parser.add_argument("--release", metavar="TAG", help="default: the newest tag")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Print every change of level; 1 where a budget against the release is overrun for sure."""
    root: Path = arguments.root
    if not arguments.all:
        key = arguments.key or this_machine(resolve_device(arguments.device))[0].key
        return _watch(arguments, COMMITTED / key / f"{arguments.suite}.json")
    if arguments.key is not None:
        raise UsageError("--all watches every hardware key: drop --key")
    found = sorted(path for path in (root / COMMITTED).glob("*/*.json") if path.suffixes == JSON)
    if not found:
        sys.stdout.write(f"no baseline is committed under {COMMITTED}: nothing to watch\n")
        return Code.ENVIRONMENT if is_required() else Code.PASS
    codes = [_watch_one_of_all(arguments, path.relative_to(root)) for path in found]
    return gravest(codes)


def _watch_one_of_all(arguments: Namespace, path: Path) -> int:
    """The same; what cannot be watched is named, and hides no other."""
    try:
        return _watch(arguments, path)
    except UsageError as error:
        sys.stdout.write(f"cannot be watched: {error}\n")
        return Code.USAGE


def _watch(arguments: Namespace, path: Path) -> int:
    """The history of one baseline."""
    root: Path = arguments.root
    log = ask_git(root, "log", "--format=%H", "--", str(path))
    if not log:
        raise UsageError(f"{path} has no history here: accept and commit a baseline first")
    commits = log.split()
    versions = [read_version(root, commit, path) for commit in reversed(commits)]
    history = [stored for stored in versions if stored is not None]
    if not history:
        raise UsageError(f"{path}: no version of it is readable by this harness")
    if versions[-1] is None:
        raise UsageError(f"{path}: its newest version, of {commits[0][:12]}, is not readable")
    policy = read_policy(root / POLICY)
    sys.stdout.write(f"{path}: {len(history)} readable baselines\n")
    for change in changes(history, policy):
        what = "slower" if change.share > 0 else "faster"
        text = f"{abs(change.share):.1%} {what} since {change.origin}"
        sys.stdout.write(f"{change.id} {change.metric}: {text}\n")
    return _against_release(arguments, history[-1], path)


def _against_release(arguments: Namespace, now: Baseline, path: Path) -> int:
    root: Path = arguments.root
    tag = arguments.release or ask_git(root, "describe", "--tags", "--abbrev=0")
    release = read_version(root, tag, path) if tag else None
    if release is None:
        sys.stdout.write(f"no release with this baseline ({tag or 'no tag'}): no budget to keep\n")
        return Code.PASS
    found = overruns(now, release, read_policy(root / POLICY))
    for one in found:
        sure = "" if one.proven else f"; not proven, {one.chance:.1%} can be chance"
        text = f"{one.share:+.1%} since {tag}, {BUDGET:.0%} are allowed{sure}"
        sys.stdout.write(f"{one.id} {one.metric}: {text}\n")
    if not found:
        sys.stdout.write(f"every time is within {BUDGET:.0%} of {tag}\n")
    return Code.REGRESSION if any(one.proven for one in found) else Code.PASS


def read_version(root: Path, revision: str, path: Path) -> Baseline | None:
    """A baseline as a commit had it; None where it had none, or none that can be read."""
    text = ask_git(root, "show", f"{revision}:{path}")
    if text is None:
        return None
    with passing_folder("benchmarks-") as folder:
        file = folder / path.name
        file.write_text(text, encoding="utf-8")
        try:
            return read_baseline(file, path.parent.name, path.stem)
        except RecordError as error:
            why = str(error).removeprefix(f"{file}: ")
            sys.stdout.write(f"{path} of {revision[:12]}: left out ({why})\n")
            return None
