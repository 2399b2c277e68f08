"""What one process measured, as data: a versioned schema that is read strictly or refused."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from benchmarks.harness.clock import WarmUp
from benchmarks.harness.machine import Machine
from benchmarks.harness.subject import Subject

SCHEMA = 2

MAX_INTEGER = 2**63
MAX_SAMPLE = 1e100
"""Of finite samples: their squares must be what a float holds."""
SUITE = re.compile(r"[\w-]{1,80}")
"""The suite's name is part of a path."""
Outcome = Literal["passed", "wrong", "errored", "skipped"]
ClockName = Literal["wall", "gpu"]
CacheState = Literal["warm", "cold"]
CHOICES = {"outcome": Outcome, "clock": ClockName, "cache": CacheState, "warm_up": WarmUp}


class RecordError(ValueError):
    """A file of records that cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Record:
    """One benchmark in one process."""

    id: str
    node: str
    """pytest's node id, relative to the rootdir: how to run this benchmark alone."""
    outcome: Outcome = "passed"
    reason: str = ""
    """Why it was skipped, wrong or errored."""
    clock: ClockName = "wall"
    """What `time_s` is: wall time around call and synchronisation, or the GPU span."""
    cache: CacheState = "warm"
    warm_up: WarmUp = "fixed"
    rounds: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Values by name; the unit is the name's end: `time_s`, `peak_gpu_bytes`, `samples_per_s`."""
    intervals: Mapping[str, float] = field(default_factory=dict)
    """Half widths of the metrics that are known with an interval (accuracies over seeds)."""
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """The values of such a metric, one per seed in their order: two arms are compared in pairs."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """Exact counts: launches, synchronisations, rejected views."""
    canary: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)
    """What NVML said meanwhile."""
    work: Mapping[str, float] = field(default_factory=dict)
    """What one call must move and compute at least, as declared: `bytes`, `flop`."""
    invalid: tuple[str, ...] = ()
    """Reasons why the times say nothing about the code: throttling, a foreign process."""
    notes: tuple[str, ...] = ()

    @property
    def is_file(self) -> bool:
        """Whether this is a whole file that could not be imported: what it holds is not known."""
        return self.node.endswith(".py")

    @property
    def cost_s(self) -> float:
        """About how much of its process it took, to be compared with the others'."""
        rounds = self.rounds * self.metrics.get("wall_s", 0.0)
        return self.metrics.get("first_call_s", 0.0) + rounds or 1.0


@dataclass(frozen=True)
class Session:
    """Everything one process measured, on one machine."""

    machine: Machine
    suite: str
    """Which set of benchmarks: the scene, and `-full` with all parameters."""
    commit: str
    records: tuple[Record, ...] = ()
    faults: str = ""
    """Faults that were injected on purpose; never stored as a baseline."""
    subject: Subject | None = None
    """The package that was measured, if any was imported: where it lies and what is in it."""
    ceilings: Mapping[str, float] = field(default_factory=dict)
    """What this machine reached in this session: `bytes_per_s` copied, `flop_per_s` multiplied."""
    order: int | None = None
    """The seed that shuffled the benchmarks; None: in the order of their files."""
    deselected: tuple[str, ...] = ()
    """Benchmarks that the suite has and this process was not asked for (`-k`)."""
    start: Mapping[str, float] = field(default_factory=dict)
    """Of the process: seconds until its first benchmark, what it held there, its peak."""

    def by_id(self) -> Mapping[str, Record]:
        """The records under their ids."""
        return MappingProxyType({record.id: record for record in self.records})


def write_session(path: Path, session: Session) -> None:
    """Write a session as JSON under a temporary name, then rename."""
    write_json(path, {"schema": SCHEMA, "kind": "session", **dataclasses.asdict(session)})


def read_session(path: Path) -> Session:
    """Read what `write_session` wrote; RecordError for anything else."""
    return parse_session(read_json(path, "session"), str(path))


def parse_session(content: object, where: str) -> Session:
    """A session from its JSON object; RecordError, with `where`, for anything else."""
    records = content.get("records") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(records, list):
        raise RecordError(f"{where}: `records` must be a list")
    ceilings, start = content.get("ceilings"), content.get("start", {})
    check_numbers(ceilings, f"{where}: ceilings")
    check_numbers(start, f"{where}: start")
    for name in ("suite", "commit", "faults"):
        if not isinstance(content.get(name, ""), str):
            raise RecordError(f"{where}: {name}: {content[name]!r} is not a string")
    if not SUITE.fullmatch(content.get("suite", "")):
        raise RecordError(f"{where}: suite: {content.get('suite')!r} is no name of a set")
    return Session(
        read_machine(content.get("machine"), where),
        str(content.get("suite")),
        str(content.get("commit")),
        tuple(read_record(entry, f"{where}: records[{n}]") for n, entry in enumerate(records)),
        str(content.get("faults", "")),
        _read_subject(content.get("subject"), where),
        dict(ceilings) if isinstance(ceilings, dict) else {},
        _read_order(content.get("order"), where),
        _read_ids(content.get("deselected", []), where),
        dict(start),
    )


def _read_order(content: object, where: str) -> int | None:
    if content is None or (isinstance(content, int) and not isinstance(content, bool)):
        return content
    raise RecordError(f"{where}: order: {content!r} is no seed")


def _read_ids(content: object, where: str) -> tuple[str, ...]:
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return tuple(content)
    raise RecordError(f"{where}: deselected: must be a list of ids")


def _read_subject(content: object, where: str) -> Subject | None:
    if content is None:
        return None
    values = _fields(Subject, content, f"{where}: subject")
    if not all(isinstance(value, str) for value in values.values()):
        raise RecordError(f"{where}: subject: must hold texts")
    return Subject(**values)


def write_json(path: Path, content: Mapping[str, object], depth: Sequence[str] = ()) -> None:
    """Sorted and indented, so that it diffs well; a killed run leaves the old file.

    With `depth`, names of nested objects (`*`: all), only what is on that way has a line for each
    of its keys; everything else is on one line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        text = _spread(content, depth) if depth else json.dumps(content, indent=1, sort_keys=True)
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _spread(content: object, depth: Sequence[str], indent: str = "") -> str:
    if not isinstance(content, dict):
        return json.dumps(content, sort_keys=True)
    lines = []
    for name, value in sorted(content.items()):
        text = json.dumps(value, sort_keys=True)
        if depth and depth[0] in (name, "*"):
            text = _spread(value, depth[1:], f"{indent} ")
        lines.append(f"{indent} {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def read_json(path: Path, *kinds: str) -> dict[str, Any]:
    """The content of one of our files, of one of these kinds, its schema checked."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or content.get("kind") not in kinds:
        raise RecordError(f"{path}: is not a {' or '.join(kinds)} of this harness")
    if content.get("schema") != SCHEMA:
        raise RecordError(
            f"{path}: has schema {content.get('schema')!r}, this harness reads {SCHEMA}; "
            "measure again, or use the version of the suite that wrote it"
        )
    return content


def read_machine(content: object, path: Path | str) -> Machine:
    """The machine part of a file; RecordError names the field that does not fit."""
    values = _fields(Machine, content, f"{path}: machine")
    for name, value in values.items():
        if not _fits_machine(name, value):
            raise RecordError(f"{path}: machine.{name}: {value!r} does not fit")
    return Machine(**values)


def _fits_machine(name: str, value: object) -> bool:
    if name == "versions":
        return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
    if name == "power_limit_w":
        return value is None or (isinstance(value, int | float) and abs(value) < MAX_INTEGER)
    if name in ("cores", "memory_bytes", "num_gpus", "gpu_memory_bytes"):
        return type(value) is int and abs(value) < MAX_INTEGER
    return isinstance(value, str) or (value is None and name in ("gpu", "gpu_uuid"))


def read_record(content: object, where: str) -> Record:
    """One record; RecordError names the field that does not fit."""
    values = _fields(Record, content, where)
    for name, choice in CHOICES.items():
        if values[name] not in get_args(choice):
            accepted = ", ".join(get_args(choice))
            raise RecordError(f"{where}.{name}: {values[name]!r} is none of {accepted}")
    for name in ("metrics", "intervals", "counters", "canary", "facts", "work"):
        check_numbers(values[name], f"{where}.{name}")
    values["samples"] = _read_samples(values["samples"], f"{where}.samples")
    for name in ("id", "node", "reason"):
        if not isinstance(values[name], str):
            raise RecordError(f"{where}.{name}: {values[name]!r} is not a string")
    for name in ("invalid", "notes"):
        if not isinstance(values[name], list):
            raise RecordError(f"{where}.{name}: must be a list")
        if not all(isinstance(text, str) for text in values[name]):
            raise RecordError(f"{where}.{name}: must hold texts")
        values[name] = tuple(values[name])
    if type(values["rounds"]) is not int:
        raise RecordError(f"{where}.rounds: {values['rounds']!r} is no count")
    return Record(**values)


def finite(record: Record) -> bool:
    """Whether every number of a record is finite, as a baseline's must be."""
    return all(map(math.isfinite, (*record.metrics.values(), *record.intervals.values())))


def _fields(
    kind: type[Record] | type[Machine] | type[Subject], content: object, where: str
) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise RecordError(f"{where}: must be an object")
    names = {entry.name for entry in dataclasses.fields(kind)}
    if set(content) != names:
        odd = ", ".join(sorted(set(content) ^ names))
        raise RecordError(f"{where}: fields missing or unknown: {odd}")
    return dict(content)


def check_numbers(content: object, where: str) -> None:
    """RecordError unless this is an object of numbers that a float can hold."""
    if not isinstance(content, dict):
        raise RecordError(f"{where}: must be an object")
    for name, value in content.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecordError(f"{where}.{name}: {value!r} is not a number")
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise RecordError(f"{where}.{name}: has {len(str(value))} digits")


def _read_samples(content: object, where: str) -> dict[str, tuple[float, ...]]:
    if not isinstance(content, dict):
        raise RecordError(f"{where}: must be an object")
    found = {}
    for name, values in content.items():
        if not isinstance(values, list | tuple):
            raise RecordError(f"{where}.{name}: must be a list")
        check_numbers(dict(enumerate(values)), f"{where}.{name}")
        large = [value for value in values if MAX_SAMPLE < abs(value) < math.inf]
        if large:
            raise RecordError(f"{where}.{name}: {large[0]!r} is beyond {MAX_SAMPLE:g}")
        found[name] = tuple(values)
    return found
