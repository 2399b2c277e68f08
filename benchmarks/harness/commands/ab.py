"""`python -m benchmarks ab`: is the working tree slower, fatter or worse than a base, in pairs."""

import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import faults, machine
from benchmarks.harness.abreport import lines
from benchmarks.harness.children import terminable
from benchmarks.harness.commands import Subparsers, UsageError, add_suite
from benchmarks.harness.commands.bisecting import bisect
from benchmarks.harness.judge import changes_suite
from benchmarks.harness.known import Known, known_of_pair
from benchmarks.harness.listing import listed
from benchmarks.harness.lock import alone
from benchmarks.harness.pairs import MARGIN
from benchmarks.harness.report import Line
from benchmarks.harness.runs import (
    STORE,
    Options,
    Trees,
    compare_trees,
    interpreter_of,
    repeat_command,
)
from benchmarks.harness.subject import PACKAGE, digest_of
from benchmarks.harness.trees import (
    Source,
    compose,
    named_tree,
    patched_tree,
    scratch,
    working_tree,
)

SECONDS = {"s": 1, "m": 60, "h": 3600}
ANSI = {"red": "31", "green": "32", "yellow": "33"}


def add(subparsers: Subparsers) -> None:
    """The command line of `ab`."""
    parser = subparsers.add_parser(
        "ab", help="the working tree against a commit, a patch or a folder, in pairs"
    )
    parser.add_argument(
        "base", nargs="?", metavar="BASE",
        help="a commit, or a folder that holds an exported tree; default: HEAD",
    )  # fmt: skip
    parser.add_argument(
        "--patch", type=Path, metavar="FILE",
        help="compare BASE (default: the working tree) with itself plus this patch",
    )  # fmt: skip
    parser.add_argument(
        "--aa", action="store_true",
        help="the placebo: the working tree (or BASE) against itself; must be green",
    )  # fmt: skip
    parser.add_argument(
        "--bisect", nargs=2, metavar=("GOOD", "BAD"),
        help="find the first commit after GOOD that is slower, by the same rule; needs -k",
    )  # fmt: skip
    add_selection(parser)
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME",
        help="judge only this metric (may be repeated), e.g. cpu_s on a busy machine",
    )  # fmt: skip
    parser.add_argument(
        "--effect", type=share, metavar="PERCENT",
        help="smallest slowdown of interest instead of the policy's: on a noisy machine 20%% is "
        "decided long before 3%%",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action="store_true", help="go on where a time limit or Ctrl-C cut this run"
    )
    parser.set_defaults(run=run)


def add_selection(parser: ArgumentParser) -> None:
    """Which benchmarks, where and for how long: the same for every command that measures pairs."""
    parser.add_argument("-k", dest="keyword", metavar="EXPR", help="pytest's choice of benchmarks")
    parser.add_argument(
        "--budget", type=seconds, default=720.0, metavar="TIME",
        help="stop after this time (with --bisect: per commit), e.g. 90s, 12m (default), 1h",
    )  # fmt: skip
    add_suite(parser)


def seconds(text: str) -> float:
    """`90s`, `12m`, `1.5h` or plain seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no time; accepted are e.g. 90s, 12m, 1h")
    return float(found[1]) * SECONDS[found[2] or "s"]


def share(text: str) -> float:
    """`20%` or `20` → 0.2."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%?", text)
    if found is None or not MARGIN < float(found[1]) / 100 < 10:
        raise ArgumentTypeError(f"{text!r}: accepted are percentages above {MARGIN:.1%}, e.g. 20%")
    return float(found[1]) / 100


def run(arguments: Namespace) -> int:
    """Compare; the exit code of the verdict."""
    _refuse_contradictions(arguments)
    options = options_of(arguments)
    with terminable(), alone(), scratch() as folder:
        if arguments.bisect:
            good, bad = arguments.bisect
            return bisect(arguments.root, good, bad, options, folder, sys.stdout)
        trees = _trees(arguments, folder, options)
        command = repeat_command(_words(arguments), resume=True, faults=options.faults)
        report, kept = compare_trees(arguments.root, trees, options, folder, command, sys.stderr)
    for line in lines(report):
        sys.stdout.write(f"{coloured(line)}\n")
    sys.stdout.write(f"records and results: {kept}\n")
    return report.exit_code


def options_of(arguments: Namespace) -> Options:
    """The options that the command line gives, checked."""
    try:
        device = machine.resolve_device(arguments.device)
        injected = faults.from_environment().text
    except ValueError as error:
        raise UsageError(str(error)) from error
    scene = arguments.scene
    if scene != "room":
        scene = str(Path(scene).resolve())  # the arms work in other folders
    selection = ["--device", device, "--scene", scene]
    selection += ["-k", arguments.keyword] if arguments.keyword else []
    selection += ["--full"] if arguments.full else []
    return Options(
        tuple(selection), tuple(getattr(arguments, "metric", ())), arguments.budget,
        injected, device == "cuda", getattr(arguments, "resume", False),
        effect=getattr(arguments, "effect", None),
    )  # fmt: skip


def _refuse_contradictions(arguments: Namespace) -> None:
    if arguments.aa and arguments.patch:
        raise UsageError("--aa compares a tree with itself: drop --patch")
    if arguments.bisect and (arguments.base or arguments.patch or arguments.aa or arguments.resume):
        raise UsageError("--bisect GOOD BAD names its trees: drop BASE, --patch, --aa, --resume")
    if arguments.bisect and not arguments.keyword:
        raise UsageError("--bisect needs -k: one benchmark, or a few, that became slower")


def _trees(arguments: Namespace, folder: Path, options: Options) -> Trees:
    """The two sources; the head's benchmarks judge both."""
    root: Path = arguments.root
    if arguments.aa or arguments.patch:
        base = _tree(root, arguments.base, folder)
        if arguments.aa:
            return Trees(base, base, base.folder, ("placebo: both arms are the same tree",))
        head = patched_tree(base, arguments.patch, folder / "patched")
    else:
        base = named_tree(root, arguments.base or "HEAD", folder / "named")
        head = working_tree(root)
    same = digest_of(base.folder / PACKAGE) == digest_of(head.folder / PACKAGE)
    if same and not options.faults:
        raise UsageError(
            f"{head.label} and {base.label} have the same {PACKAGE}/: there is nothing to compare; "
            "name another BASE (HEAD~1, origin/main), or measure the noise with --aa"
        )
    known, unlisted = _known(arguments, base, head, options, folder)
    notes = (f"both arms run the benchmarks of {head.label}", *base.edits, *head.edits, *unlisted)
    return Trees(base, head, head.folder, notes, known=known)


def _known(
    arguments: Namespace, base: Source, head: Source, options: Options, folder: Path
) -> tuple[Known, tuple[str, ...]]:
    """What the base's suite has, and a note where not all of it can be known.

    Where the head changes what may be collected, the base's own suite is: files alone do not tell
    which values of a parameter are gone.
    """
    known = known_of_pair(base.folder, head.folder, options.keyword, full=arguments.full)
    if not changes_suite(base.folder, head.folder):
        return known, ()
    sys.stderr.write(f"the suite of {base.label} is another one: listing its benchmarks\n")
    root: Path = arguments.root
    python = interpreter_of(root, base, options)
    arm = compose(base, base.folder, folder / "listed")
    found = listed(arm.root, python, options.selection, root / STORE, folder / "listing")
    told = (
        f"what the suite of {base.label} has is not known for sure ({found.problem}): a benchmark "
        "or a value of a parameter that the head has taken out may go unseen"
    )
    return replace(known, listed=found.ids), (told,) if found.problem else ()


def _tree(root: Path, name: str | None, folder: Path) -> Source:
    return working_tree(root) if name is None else named_tree(root, name, folder / "named")


def _words(arguments: Namespace) -> list[str]:
    """The command line again, for the hint how to go on."""
    words = ["ab", *([arguments.base] if arguments.base else [])]
    words += ["--patch", str(arguments.patch)] if arguments.patch else []
    words += ["--aa"] if arguments.aa else []
    for name in arguments.metric:
        words += ["--metric", name]
    words += ["--effect", f"{100 * arguments.effect:g}%"] if arguments.effect else []
    return [*words, *selection_words(arguments)]


def selection_words(arguments: Namespace) -> list[str]:
    """The options of `add_selection` again, but for the budget."""
    words = ["-k", arguments.keyword] if arguments.keyword else []
    words += ["--full"] if arguments.full else []
    for option, default in (("scene", "room"), ("device", "auto")):
        value = getattr(arguments, option)
        words += [f"--{option}", value] if value != default else []
    return words


def coloured(line: Line) -> str:
    """A line in its colour, on a terminal."""
    if not line.colour or not sys.stdout.isatty():
        return line.text
    return f"\x1b[{ANSI[line.colour]}m{line.text}\x1b[0m"
