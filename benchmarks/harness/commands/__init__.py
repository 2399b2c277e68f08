"""The commands of `python -m benchmarks`, one module each.

A module has `add(subparsers)`: it adds its parser and sets `run` to a function of the parsed
arguments that returns the exit code. `arguments.root` is the checkout that the command works on.
"""

from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Callable

Subparsers = _SubParsersAction
"""What `add_subparsers` returns; argparse has no public name for it."""


class UsageError(ValueError):
    """Arguments or files that cannot be used: exit code 4; the message says what is accepted."""


def add_suite(parser: ArgumentParser) -> None:
    """Where the benchmarks run, over which scene and which of their parameters."""
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--scene", default="room", metavar="PATH")
    parser.add_argument("--full", action="store_true", help="all parameters of every benchmark")


def table() -> tuple[Callable[[Subparsers], None], ...]:
    """How each command adds itself, in the order in which the help lists them."""
    from benchmarks.harness.commands import (
        ab,
        baseline,
        calibrate,
        creep,
        doctor,
        export,
        gate,
        report,
    )

    modules = (ab, baseline, calibrate, creep, doctor, export, gate, report)
    return tuple(module.add for module in modules)
