"""`python -m benchmarks calibrate`: how noisy this machine is, by the same code against itself."""

import datetime
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.blocks import SIDES, Block, BlockFile, Request, Side, begin, go_on
from benchmarks.harness.calibration import (
    MIN_BLOCKS,
    RELABELLINGS,
    Calibration,
    calibrate,
    calibration_path,
    write_calibration,
)
from benchmarks.harness.children import terminable
from benchmarks.harness.commands import Subparsers, UsageError
from benchmarks.harness.commands.ab import add_selection, options_of
from benchmarks.harness.compare import Comparison
from benchmarks.harness.countdown import Countdown
from benchmarks.harness.faults import VARIABLE
from benchmarks.harness.lock import alone
from benchmarks.harness.policy import Policy, read_policy
from benchmarks.harness.processes import Launcher
from benchmarks.harness.progress import Tell
from benchmarks.harness.runs import STORE, narrowed
from benchmarks.harness.subject import PACKAGE, digest_of
from benchmarks.harness.suite import POLICY
from benchmarks.harness.trees import Source, compose, scratch, working_tree
from benchmarks.harness.verdict import Code
from benchmarks.harness.versus import Ended, Guard, OutOfTime, Processes, Versus

BLOCKS = 30
"""As many as the paired rule can ask for."""


def add(subparsers: Subparsers) -> None:
    """The command line of `calibrate`."""
    parser = subparsers.add_parser(
        "calibrate", help="noise, smallest detectable slowdown, realised false alarms by A/A"
    )
    parser.add_argument("--blocks", type=int, default=BLOCKS, help=f"default: {BLOCKS}")
    parser.add_argument("--metric", action="append", default=[], metavar="NAME")
    parser.add_argument("--resume", action="store_true", help="go on with the newest blocks")
    parser.add_argument("--relabellings", type=int, default=RELABELLINGS)
    parser.add_argument("--baseline-dir", type=Path, default=None, metavar="DIR")
    add_selection(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Measure what is missing, calibrate, write it beside the baseline."""
    options = options_of(arguments)
    if options.faults:
        raise UsageError(f"faults are injected ({options.faults}): unset {VARIABLE}")
    if arguments.blocks < MIN_BLOCKS:
        raise UsageError(f"--blocks {arguments.blocks}: at least {MIN_BLOCKS}")
    root: Path = arguments.root
    policy = narrowed(read_policy(root / POLICY), options.metrics)
    source = working_tree(root)
    with terminable(), alone(), scratch() as folder:
        file, blocks, seed = _open(root, arguments, source)
        shown = Countdown(sys.stderr, arguments.blocks, options.budget_s, len(blocks))
        guard = Guard(shown.tell, blocks, options.budget_s)
        arms = _arms(arguments, source, options.selection, folder, guard.tell)
        versus = Versus(arms, lambda found: _until(found, arguments.blocks), seed)
        guard.start()
        try:
            _, ended = versus.run(file, blocks, options.budget_s, shown.show)
        except KeyboardInterrupt:
            sys.stdout.write(f"interrupted after {len(blocks)} blocks; --resume goes on\n")
            return Code.INCONCLUSIVE
        except OutOfTime as spent:
            sys.stdout.write(f"--budget does not hold the first block: {spent}\n")
            return Code.INCONCLUSIVE
    if ended is Ended.BUDGET and len(blocks) < MIN_BLOCKS:
        few = f"{len(blocks)} blocks when the time was spent, at least {MIN_BLOCKS} are needed"
        sys.stdout.write(f"{few}; --resume goes on: {file.path}\n")
        return Code.INCONCLUSIVE
    sys.stdout.write(f"{len(blocks)} blocks ({ended.value}): {file.path}\n")
    _conclude(arguments, blocks, policy, source.commit, seed)
    return Code.PASS


def _conclude(
    arguments: Namespace, blocks: Sequence[Block], policy: Policy, commit: str, seed: int
) -> None:
    """Write what the blocks tell beside the baseline, and show it."""
    root: Path = arguments.root
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    origin = f"{commit}, {day}, package {digest_of(root / PACKAGE)}"
    found = calibrate(blocks, policy, origin, seed, arguments.relabellings)
    path = calibration_path(root, found.key, found.suite, arguments.baseline_dir)
    write_calibration(path, found)
    for line in lines(found):
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{path}\n")


def _arms(
    arguments: Namespace, source: Source, selection: tuple[str, ...], folder: Path, tell: Tell
) -> dict[Side, Processes]:
    """Two copies of one tree."""
    root: Path = arguments.root
    arms: dict[Side, Processes] = {}
    for side in SIDES:
        cache = root / STORE / "compiled" / f"calibration-{side}"
        arm = compose(source, root, folder / side)
        arms[side] = Launcher(
            arm, sys.executable, selection, cache, tell=lambda text, s=side: tell(f"{s} {text}")
        )
    return arms


def _until(blocks: Sequence[Block], wanted: int) -> Comparison:
    """Asks for whole blocks, whatever they show, until there are enough."""
    done = len(blocks) >= wanted
    return Comparison(Code.PASS, (), None if done else Request(len(blocks), 0, None), 0)


def _open(root: Path, arguments: Namespace, source: Source) -> tuple[BlockFile, list[Block], int]:
    header: dict[str, object] = {
        "calibration": True,
        "package": digest_of(source.folder / PACKAGE),
        "selection": list(options_of(arguments).selection),
    }
    home = root / STORE / "calibration"
    if arguments.resume:
        for path in sorted(home.glob("*.jsonl"), reverse=True):
            known = BlockFile(path).header()
            if {key: known.get(key) for key in header} == header:
                return go_on(path)
        raise UsageError(f"--resume: no blocks of this package and selection under {home}")
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return begin(home / f"{stamp}.jsonl", header)


def lines(found: Calibration) -> list[str]:
    """The table, and what the whole suite would have done."""
    width = max(map(len, found.times), default=9)
    table = [f"{'time':{width}}  blocks  noise of a process         finds   wants  false alarms"]
    for name, time in found.times.items():
        noise = f"{time.log_sd:7.2%} {time.noise}"
        mark = "  advisory: too coarse" if time.advisory else ""
        table.append(
            f"{name:{width}}  {time.blocks:6}  {noise:22}  {time.detectable:8.1%}"
            f"  {time.smallest_effect:6.1%}  {time.false_alarms:12.2%}{mark}"
        )
    suite = (
        f"any of {found.num_gated} red in {found.suite_false_alarms:.2%} of {found.relabellings:,} "
        f"relabellings (normal noise of these spreads: {found.simulated_false_alarms:.2%})"
    )
    return [*table, suite]
