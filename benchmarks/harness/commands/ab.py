"""`python -m benchmarks ab`: is the working tree slower, fatter or worse than a base, in pairs."""

from argparse import Namespace

from benchmarks.harness.commands import Subparsers, UsageError


def add(subparsers: Subparsers) -> None:
    """The command line of `ab`."""
    parser = subparsers.add_parser("ab", help="the working tree against a base, in pairs")
    parser.add_argument("base", nargs="?", default="HEAD", help="a commit or an exported folder")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Compare; the exit code of the verdict."""
    raise UsageError(f"ab against {arguments.base}: not built yet")
