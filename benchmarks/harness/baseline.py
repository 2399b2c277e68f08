"""Baselines: one small, sorted JSON file per set of benchmarks, in a folder per kind of hardware.

Committed ones lie under `benchmarks/baselines/`; a machine that has none there keeps its own under
`.benchmarks/`, which git ignores. They hold summaries only, never rounds.
"""

import dataclasses
import datetime
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.harness.machine import Machine
from benchmarks.harness.record import (
    SCHEMA,
    Record,
    RecordError,
    Session,
    check_numbers,
    finite,
    read_json,
    read_machine,
    read_record,
    write_json,
)
from benchmarks.harness.statistics import median, t_quantile

REQUIRED = object()
DEFAULTS: dict[str, Any] = {
    name: list(value) if isinstance(value, tuple) else value
    for name, value in dataclasses.asdict(Record("", "")).items()
    if name not in ("id", "node")
}
"""What a field of a record is where a baseline does not say."""
COMMITTED = Path("benchmarks/baselines")
LOCAL = Path(".benchmarks/rap")


@dataclass(frozen=True)
class Noise:
    """How a benchmark's times differ between processes of the same code on one machine."""

    sessions: int
    """Processes that were recorded; the stored values are their medians."""
    log_sd: Mapping[str, float]
    """Standard deviation of a time's logarithm over them, for each metric that is a time."""

    def reach(self, metric: str, probability: float) -> float:
        """How far above the stored log time one more session stays with this probability.

        The upper prediction bound for one more normal value; infinite for fewer than two sessions.
        """
        spread = self.log_sd.get(metric)
        if spread is None or self.sessions < 2:
            return math.inf
        quantile = t_quantile(probability, self.sessions - 1)
        return quantile * spread * math.sqrt(1 + 1 / self.sessions)


@dataclass(frozen=True)
class Baseline:
    """What one kind of machine measured, and where each number comes from."""

    machine: Machine
    suite: str
    records: Mapping[str, Record]
    origins: Mapping[str, str]
    """Commit, day and digest of the measured package, of each record."""
    noise: Mapping[str, Noise] = field(default_factory=dict)
    """Of the benchmarks that were recorded in several sessions."""
    start: Mapping[str, float] = field(default_factory=dict)
    """Of a process before its first benchmark, in the recorded sessions: what it held."""

    def noise_of(self, name: str) -> Noise | None:
        """A benchmark's noise, at least what is typical here; None if it was recorded once.

        Of thirty spreads of five sessions each, the smallest are luck: taken at their word they
        raised a false alarm in 2.7 % of unchanged suites (simulated, noisy VM).
        """
        own = self.noise.get(name)
        if own is None:
            return None
        typical = {
            metric: median([n.log_sd[metric] for n in self.noise.values() if metric in n.log_sd])
            for metric in own.log_sd
        }
        return replace(own, log_sd={m: max(v, typical[m]) for m, v in own.log_sd.items()})


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


def is_committed(root: Path, path: Path) -> bool:
    """Whether a file is in the store that git keeps, into which only `accept` writes."""
    return path.resolve().is_relative_to((root / COMMITTED).resolve())


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
    records, origins, noise = {}, {}, {}
    for name, entry in entries.items():
        where = f"{path}: {name}"
        if not isinstance(entry, dict) or not isinstance(entry.get("origin"), str):
            raise RecordError(f"{where}: has no origin")
        values = {key: value for key, value in entry.items() if key not in ("origin", "noise")}
        record = read_record({**DEFAULTS, **values}, where)
        if record.id != name or record.outcome != "passed" or not finite(record):
            raise RecordError(f"{where}: is no finite, passed measurement of {name}")
        records[name], origins[name] = record, entry["origin"]
        if "noise" in entry:
            noise[name] = _read_noise(entry["noise"], where)
    start = content.get("start", {})
    check_numbers(start, f"{path}: start")
    if not all(map(math.isfinite, start.values())):
        raise RecordError(f"{path}: start: holds a number that is not finite")
    machine = read_machine(content.get("machine"), path)
    return Baseline(machine, suite, records, origins, noise, start)


def _read_noise(content: object, where: str) -> Noise:
    if isinstance(content, dict) and set(content) == {"sessions", "log_sd"}:
        sessions, spread = content["sessions"], content["log_sd"]
        known = isinstance(spread, dict) and all(isinstance(v, float) for v in spread.values())
        if isinstance(sessions, int) and known:
            return Noise(sessions, spread)
    raise RecordError(f"{where}.noise: write sessions (a count) and log_sd (numbers by metric)")


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
    origins = {} if baseline is None else {name: baseline.origins[name] for name in kept}
    noise = {} if baseline is None else {n: v for n, v in baseline.noise.items() if n in kept}
    start = {} if baseline is None else baseline.start
    old = Baseline(session.machine, session.suite, kept, origins, noise, start)
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
    """Write by rename, so that files are small and diff well.

    Numbers have six digits, metrics a line each; what a field is without saying so is left out.
    """
    entries = {}
    for name, record in baseline.records.items():
        entry = _rounded({**dataclasses.asdict(record), "origin": baseline.origins[name]})
        if name in baseline.noise:
            entry["noise"] = _rounded(dataclasses.asdict(baseline.noise[name]))
        entries[name] = {key: v for key, v in entry.items() if v != DEFAULTS.get(key, REQUIRED)}
    content = {
        "schema": SCHEMA,
        "kind": "baseline",
        "key": baseline.machine.key,
        "suite": baseline.suite,
        "machine": dataclasses.asdict(baseline.machine),
        "benchmarks": entries,
        **({"start": _rounded(dict(baseline.start))} if baseline.start else {}),
    }
    write_json(path, content, depth=("benchmarks", "*", "metrics"))


def _rounded(content: Any) -> Any:  # noqa: ANN401 (whatever JSON holds)
    """Floats of six digits, lists instead of tuples."""
    if isinstance(content, dict):
        return {name: _rounded(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_rounded(value) for value in content]
    return float(f"{content:.6g}") if isinstance(content, float) else content
