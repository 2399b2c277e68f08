"""Measure benchmarks again, in a fresh process: what a suspect has to repeat before it is red."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.harness.children import (
    BYTECODE,
    LOG,
    passing_folder,
    run_process,
    terminable,
    with_bytecode,
)
from benchmarks.harness.machine import Machine
from benchmarks.harness.options import handed_over_to
from benchmarks.harness.progress import Tell
from benchmarks.harness.record import Record, Session, read_session

TIMEOUT_S = 900.0
TAIL_LINES = 15
QUIET = ("-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
"""Hypothesis' plugin alone would take 0.8 s of every process."""


@dataclass(frozen=True)
class Fresh:
    """How this suite is run by another process."""

    root: Path
    arguments: tuple[str, ...]
    """Options that select the same device, scene and parameters."""
    tell: Tell | None = None
    """Hears which benchmark runs."""

    @property
    def log(self) -> Path:
        """What the last process printed."""
        return self.root / ".benchmarks" / LOG

    def command(self, nodes: Sequence[str]) -> list[str]:
        """The command line that measures some benchmarks, as a person could type it."""
        return [sys.executable, "-m", "pytest", *nodes, "--benchmark-only", *self.arguments]

    def measure(self, machine: Machine, suite: str, records: Sequence[Record]) -> Session:
        """Measure these benchmarks once more; one that gives no record comes back as errored."""
        measured, _, problem = self.session([record.node for record in records])
        if measured is None:
            measured = Session(machine, suite, "unknown")
        missing = [record for record in records if record.id not in measured.by_id()]
        lost = [Record(r.id, r.node, "errored", f"no record: {problem}") for r in missing]
        return replace(measured, suite=suite, records=(*measured.records, *lost))

    def count(self, records: Sequence[Record]) -> tuple[dict[str, Record], str]:
        """The records of a counting process, by id, and how it ended if it gave none."""
        nodes = [record.node for record in records]
        counted, _, problem = self.session(nodes, "--benchmark-count")
        return ({} if counted is None else dict(counted.by_id())), problem

    def session(self, selection: Sequence[str], *options: str) -> tuple[Session | None, int, str]:
        """What a fresh process measured of a selection, None if nothing; its exit code; its end."""
        command = [*self.command(selection), *options]
        with passing_folder("benchmarks-") as folder:
            output = folder / "records.json"
            code, problem = self._run([*command, *QUIET], output)
            return (read_session(output) if output.exists() else None), code, problem

    def _run(self, command: list[str], output: Path) -> tuple[int, str]:
        environment = with_bytecode(os.environ, self.log.parent / BYTECODE)
        environment |= handed_over_to(output)
        with terminable():
            code, text = run_process(
                command, self.root, environment, self.log, TIMEOUT_S, self.tell
            )
        tail = "\n".join(text.strip().splitlines()[-TAIL_LINES:])
        return code, f"the fresh process ended with exit code {code}\n{tail}"
