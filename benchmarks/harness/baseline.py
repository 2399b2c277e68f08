"""Baselines: one small, sorted JSON file per set of benchmarks, in a folder per kind of hardware.

Committed ones lie under `benchmarks/baselines/`; a machine that has none there keeps its own under
`.benchmarks/`, which git ignores. They hold summaries only, never rounds.
"""

import dataclasses
import datetime
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.machine import Machine
from benchmarks.harness.record import (
    SCHEMA,
    Record,
    RecordError,
    Session,
    finite,
    read_json,
    read_machine,
    read_record,
    write_json,
)

COMMITTED = Path("benchmarks/baselines")
LOCAL = Path(".benchmarks/rap")


@dataclass(frozen=True)
class Baseline:
    """What one kind of machine measured, and where each number comes from."""

    machine: Machine
    suite: str
    records: Mapping[str, Record]
    origins: Mapping[str, str]
    """Commit, day and digest of the measured package, of each record."""


def locate(root: Path, key: str, suite: str, folder: Path | None = None) -> Path:
    """The file of this hardware and set: in `folder` if given, else committed, else local."""
    name = Path(key) / f"{suite}.json"
    if folder is not None:
        return folder / name
    committed = root / COMMITTED / name
    return committed if committed.exists() else root / LOCAL / name


def is_local(root: Path, path: Path) -> bool:
    """Whether a file is in the store that git ignores, where new benchmarks are added unasked."""
    return path.is_relative_to(root / LOCAL)


def read_baseline(path: Path, key: str, suite: str) -> Baseline | None:
    """The stored baseline; None where there is none; RecordError where it must not be used."""
    if not path.exists():
        return None
    content = read_json(path, "baseline")
    if content.get("key") != key or content.get("suite") != suite:
        raise RecordError(
            f"{path}: is the baseline of {content.get('key')} ({content.get('suite')}), "
            f"this is {key} ({suite})"
        )
    entries = content.get("benchmarks")
    if not isinstance(entries, dict) or not entries:
        raise RecordError(f"{path}: holds no benchmarks")
    records, origins = {}, {}
    for name, entry in entries.items():
        where = f"{path}: {name}"
        if not isinstance(entry, dict) or not isinstance(entry.get("origin"), str):
            raise RecordError(f"{where}: has no origin")
        record = read_record({k: v for k, v in entry.items() if k != "origin"}, where)
        if record.id != name or record.outcome != "passed" or not finite(record):
            raise RecordError(f"{where}: is no finite, passed measurement of {name}")
        records[name], origins[name] = record, entry["origin"]
    return Baseline(read_machine(content.get("machine"), path), suite, records, origins)


def added(baseline: Baseline | None, session: Session) -> Baseline:
    """The baseline with the passed records that it lacks; what it has is never touched."""
    old = baseline or Baseline(session.machine, session.suite, {}, {})
    lacking = [record for record in session.records if record.id not in old.records]
    return _with(old, lacking, session)


def renewed(baseline: Baseline | None, session: Session, asked: Collection[str]) -> Baseline:
    """The baseline with a session's passed records instead of what the session was `asked` for."""
    kept = {} if baseline is None else dict(baseline.records)
    for name in asked:
        kept.pop(name, None)
    origins = {} if baseline is None else baseline.origins
    old = Baseline(session.machine, session.suite, kept, {name: origins[name] for name in kept})
    return _with(old, session.records, session)


def _with(old: Baseline, new: Iterable[Record], session: Session) -> Baseline:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    passed = {record.id: record for record in new if record.outcome == "passed"}
    subject = "" if session.subject is None else f", package {session.subject.digest}"
    origins = dict.fromkeys(passed, f"{session.commit}, {today}{subject}")
    return dataclasses.replace(
        old, records={**old.records, **passed}, origins={**old.origins, **origins}
    )


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write by rename; numbers are rounded to six digits, so that files are small and diff well."""
    entries = {
        name: _rounded({**dataclasses.asdict(record), "origin": baseline.origins[name]})
        for name, record in baseline.records.items()
    }
    content = {
        "schema": SCHEMA,
        "kind": "baseline",
        "key": baseline.machine.key,
        "suite": baseline.suite,
        "machine": dataclasses.asdict(baseline.machine),
        "benchmarks": entries,
    }
    write_json(path, content)


def _rounded(content: Mapping[str, object]) -> dict[str, object]:
    return {
        name: {k: _six_digits(v) for k, v in value.items()} if isinstance(value, dict) else value
        for name, value in content.items()
    }


def _six_digits(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value
