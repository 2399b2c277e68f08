"""Toy sessions for the tests of `python -m benchmarks baseline`."""

import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness.baseline import COMMITTED, Baseline, read_baseline
from benchmarks.harness.machine import Machine
from benchmarks.harness.record import Record, Session
from benchmarks.harness.subject import Subject

DAY = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
STEP = Record(
    "step", "benchmarks/bench_toy.py::bench_step", warm_up="verified",
    metrics={"time_s": 1.0, "error_m": 0.1}, counters={"launches": 3},
)  # fmt: skip
SUBJECT = Subject("/tree/rap/__init__.py", "0123456789ab")


def times(value: float, record: Record = STEP) -> Record:
    """The benchmark at another time."""
    return dataclasses.replace(record, metrics={**record.metrics, "time_s": value})


def run(machine: Machine, *records: Record, commit: str = "abc123") -> Session:
    """A clean session."""
    return Session(machine, "room", commit, records, subject=SUBJECT)


def accepted(root: Path, machine: Machine) -> Baseline | None:
    """What lies in the folder that is committed."""
    return read_baseline(root / COMMITTED / machine.key / "room.json", machine.key, "room")


Keep = Callable[..., list[Path]]
"""The fixture `keep`."""
Command = Callable[..., tuple[int, str]]
"""The fixture `command`."""
