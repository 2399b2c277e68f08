"""`python -m benchmarks COMMAND`: what the suite can do beyond one run of pytest."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.commands import UsageError, table
from benchmarks.harness.commit import StampError
from benchmarks.harness.environments import SetupError
from benchmarks.harness.policy import PolicyError
from benchmarks.harness.processes import ArmError
from benchmarks.harness.record import RecordError
from benchmarks.harness.trees import TreeError
from benchmarks.harness.verdict import Code

ROOT = Path(__file__).parent.parent
INTERRUPTED = 2
"""pytest's own code for it."""
INTERNAL_ERROR = 3
"""pytest's, too."""


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run one command; its exit code, 4 (USAGE) with one line for what cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in table():
        add(subparsers)
    try:
        arguments = parser.parse_args(argv, argparse.Namespace(root=root))
    except SystemExit as leave:  # argparse has said why; its own code 2 is pytest's for interrupted
        return Code.USAGE if leave.code else Code.PASS
    try:
        return arguments.run(arguments)
    except (UsageError, RecordError, PolicyError, TreeError, StampError, ArmError) as error:
        sys.stderr.write(f"python -m benchmarks {arguments.command}: {error}\n")
        return error.code if isinstance(error, ArmError) else Code.USAGE
    except SetupError as error:
        sys.stderr.write(f"python -m benchmarks {arguments.command}: {error}\n")
        return Code.ENVIRONMENT
    except Exception:  # noqa: BLE001 (Python's own code for it is 1, which means REGRESSION)
        traceback.print_exc()
        return INTERNAL_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
