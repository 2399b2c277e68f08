"""`rap doctor`: what this machine has, and what does not fit together."""

from collections.abc import Sequence
from dataclasses import dataclass

from rap.cli.arguments import parse


@dataclass(frozen=True)
class Doctor:
    """Show Python, torch, CUDA, driver, GPUs, compilers and packages, with a fix for each mismatch.

    The exit code is 1 when something makes `rap` unusable here.
    """


def run(argv: Sequence[str]) -> int:
    """Look, show, judge."""
    parse(Doctor, "doctor", argv)

    from rap import doctor

    return 0 if doctor.run() else 1
