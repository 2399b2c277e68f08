"""`python -m benchmarks doctor`: whether this machine is fit to measure, and what is missing."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import fitness
from benchmarks.harness.baseline import locate, read_baseline
from benchmarks.harness.commands import Subparsers, add_suite
from benchmarks.harness.commit import commit_of, edited
from benchmarks.harness.fitness import Check
from benchmarks.harness.gpu import Sample
from benchmarks.harness.judging import is_required
from benchmarks.harness.machine import resolve_device, suite_name, this_machine
from benchmarks.harness.policy import read_policy
from benchmarks.harness.suite import POLICY
from benchmarks.harness.verdict import Code


def add(subparsers: Subparsers) -> None:
    """The command line of `doctor`."""
    parser = subparsers.add_parser("doctor", help="is this machine fit to measure?")
    add_suite(parser)
    parser.add_argument("--baseline-dir", type=Path, default=None, metavar="DIR")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Print every finding; 11 (ENVIRONMENT) if one makes the machine unfit."""
    found = list(examine(arguments))
    for finding in found:
        mark = {"ok": " ", "warning": "!", "unfit": "X"}[finding.level]
        sys.stdout.write(f"{mark} {finding.text}\n")
    unfit = sum(finding.level == "unfit" for finding in found)
    doubts = sum(finding.level == "warning" for finding in found)
    word = "NOT FIT to measure" if unfit else "fit to measure"
    sys.stdout.write(f"{word}: {unfit} obstacles, {doubts} doubts\n")
    return Code.ENVIRONMENT if unfit else Code.PASS


def examine(arguments: Namespace) -> Iterator[Check]:
    """Everything that is looked at, in the order in which it is shown."""
    root: Path = arguments.root
    machine, watched = this_machine(resolve_device(arguments.device))
    yield Check("ok", machine.describe())
    yield Check("ok", f"hardware key {machine.key}")
    yield from fitness.packages()
    policy = read_policy(root / POLICY)
    yield Check("ok", f"{POLICY}: {len(policy.entries)} entries, {len(policy.metrics)} metrics")
    yield fitness.code(commit_of(root), edited(root))
    suite = suite_name(arguments.scene, full=arguments.full)
    path = locate(root, machine.key, suite, arguments.baseline_dir)
    yield fitness.baseline(read_baseline(path, machine.key, suite), path, is_required())
    yield from fitness.look_at_host()
    looks: list[Sample] = []
    look = None if watched is None else lambda: looks.append(watched.sample())
    yield from fitness.noise(fitness.canaries(machine.device, look))
    yield from fitness.gpu(machine, watched, looks)
