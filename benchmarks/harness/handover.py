"""What a verdict was made from, as one file: whoever reads it can make the verdict again.

A run on a machine that executes other people's code is not believed: the numbers are handed over,
and code of the base branch decides.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.record import (
    SCHEMA,
    RecordError,
    Session,
    parse_session,
    read_json,
    write_json,
)

KIND = "evidence"
MAX_BYTES = 32 << 20
"""No run of ours comes near it; a larger file is not read."""


@dataclass(frozen=True)
class Evidence:
    """A run, the fresh processes that measured suspects again, and what was asked of it."""

    run: Session
    remeasured: tuple[Session, ...] = ()
    expected: tuple[str, ...] = ()
    """Ids of the baseline that the run was asked for, as its own plugin understood it."""
    required: bool = False
    """Whether a machine without a baseline is ENVIRONMENT instead of a first run."""


def write_evidence(path: Path, evidence: Evidence) -> None:
    """Write it as JSON, by rename."""
    write_json(path, {"schema": SCHEMA, "kind": KIND, **dataclasses.asdict(evidence)})


def read_evidence(path: Path) -> Evidence:
    """Read what `write_evidence` wrote; RecordError for anything else or too large."""
    refuse_large(path)
    content = read_json(path, KIND)
    again, expected = content.get("remeasured"), content.get("expected")
    if not isinstance(again, list) or not isinstance(expected, list):
        raise RecordError(f"{path}: `remeasured` and `expected` must be lists")
    if not all(isinstance(name, str) for name in expected):
        raise RecordError(f"{path}: `expected` must hold ids")
    return Evidence(
        parse_session(content.get("run"), f"{path}: run"),
        tuple(parse_session(one, f"{path}: remeasured[{n}]") for n, one in enumerate(again)),
        tuple(expected),
        bool(content.get("required")),
    )


def refuse_large(path: Path) -> None:
    """RecordError for a file that no run of ours could have written."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    if size > MAX_BYTES:
        raise RecordError(f"{path}: has {size >> 20} MiB; at most {MAX_BYTES >> 20} are read")
