"""Recorded sessions: where they are kept, what makes them unfit, and how several make a baseline.

A baseline is what main's code measured on one machine. So sessions that failed, were disturbed, or
came from code that nobody can name again are refused, each with its reason.
"""

import datetime
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.harness.baseline import Baseline, Noise
from benchmarks.harness.commit import DIRTY
from benchmarks.harness.counting import KINDS, NOT_COUNTED
from benchmarks.harness.record import Record, RecordError, Session, finite, read_session
from benchmarks.harness.startup import HELD
from benchmarks.harness.statistics import deviation, median
from benchmarks.harness.verdict import Code, gravest

FOLDER = Path(".benchmarks/sessions")
STEADY_SHARE = 0.5
"""Of a benchmark's sessions, the share that must have been steady and valid; those are kept."""


@dataclass(frozen=True)
class Objection:
    """Why sessions cannot become a baseline, and the exit code that it means."""

    code: Code
    text: str
    unsteady: str = ""
    """The benchmark whose times alone it is about: the others can be accepted without it."""


def session_path(root: Path, session: Session, now: datetime.datetime) -> Path:
    """Where a recorded session is kept: sorted by its time within its machine and suite."""
    name = f"{now.astimezone(datetime.UTC):%Y%m%d-%H%M%S-%f}-{session.commit}.json"
    return root / FOLDER / session.machine.key / session.suite / name


def newest_sessions(root: Path, key: str, suite: str) -> list[Path]:
    """The files of the newest recorded session and of all others of the same code."""
    files = sorted((root / FOLDER / key / suite).glob("*.json"), reverse=True)
    if not files:
        return []
    newest = code_of(read_session(files[0]))
    return sorted(file for file in files if code_of(read_session(file)) == newest)


def code_of(session: Session) -> tuple[str, str]:
    """What was measured: the commit and the digest of the package."""
    return session.commit, "" if session.subject is None else session.subject.digest


def worst_code(objections: Sequence[Objection]) -> Code:
    """The gravest exit code; PASS without any objection."""
    return gravest({objection.code for objection in objections})


def objections(sessions: Sequence[Session]) -> list[Objection]:
    """Everything that keeps these sessions from becoming one baseline."""
    found = [Objection(Code.USAGE, text) for text in _unusable(sessions)]
    names = dict.fromkeys(record.id for session in sessions for record in session.records)
    for name in names:
        found += _about(name, [session.by_id().get(name) for session in sessions])
    if not any(record.outcome == "passed" for s in sessions for record in s.records):
        found.append(Objection(Code.COVERAGE, "nothing was measured"))
    return found


def _unusable(sessions: Sequence[Session]) -> Iterator[str]:
    """What is wrong with whole sessions."""
    for session in sessions:
        if session.faults:
            yield f"faults were injected: {session.faults}"
        if session.commit.endswith(DIRTY):
            yield f"measured a tree with changes that are in no commit: {session.commit}"
        if session.commit in ("", "unknown"):
            yield "the commit is not known: set BENCHMARK_COMMIT where there is no git history"
        names = [record.id for record in session.records]
        if len(set(names)) < len(names):
            yield "two benchmarks of a session share an id"
    for what, values in (
        ("machines", {session.machine.key for session in sessions}),
        ("suites", {session.suite for session in sessions}),
        ("versions of the code", {" ".join(code_of(session)) for session in sessions}),
    ):
        if len(values) > 1:
            yield f"the sessions are of {len(values)} {what}: {', '.join(sorted(values))}"


def _about(name: str, records: Sequence[Record | None]) -> Iterator[Objection]:
    """What is wrong with one benchmark's records, one for each session."""
    present = [record for record in records if record is not None]
    if all(record.outcome == "skipped" for record in present):
        return
    if len(present) < len(records):
        yield Objection(Code.COVERAGE, f"{name}: is missing in some sessions")
    for record in present:
        if record.outcome == "wrong":
            yield Objection(Code.REGRESSION, f"{name}: wrong answer ({record.reason})")
        elif record.outcome != "passed":
            yield Objection(Code.COVERAGE, f"{name}: {record.outcome} ({record.reason})")
        elif not finite(record):
            yield Objection(Code.REGRESSION, f"{name}: holds a number that is not finite")
    passed = [record for record in present if record.outcome == "passed"]
    if passed and len(steady(passed)) < max(1, STEADY_SHARE * len(passed)):
        reasons = sorted({reason for record in passed for reason in _disturbances(record)})
        text = f"{name}: {', '.join(reasons)}; record it again on a quieter machine"
        yield Objection(Code.ENVIRONMENT, text, unsteady=name)


def without(sessions: Sequence[Session], names: Collection[str]) -> list[Session]:
    """The sessions without these benchmarks."""
    return [
        replace(session, records=tuple(r for r in session.records if r.id not in names))
        for session in sessions
    ]


def _disturbances(record: Record) -> Iterator[str]:
    if record.warm_up == "unsteady":
        yield "unsteady (still changing by over 0.5 % when warm-up was cut off)"
    yield from record.invalid


def steady(records: Sequence[Record]) -> list[Record]:
    """The records whose times say something about the code."""
    return [record for record in records if not [*_disturbances(record)]]


def inexact_counters(sessions: Sequence[Session]) -> list[str]:
    """Counts that differ between sessions of one code, in words: they would be red by chance."""
    found = []
    for name in dict.fromkeys(record.id for session in sessions for record in session.records):
        records = [r for session in sessions if (r := session.by_id().get(name))]
        for counter, values in _counts(records).items():
            if len(values) > 1:
                told = ", ".join(sorted(map(str, values)))
                found.append(f"{name}: {counter} differs between the sessions ({told}): left out")
    missed = {name: why for name in sessions[0].by_id() if (why := _never_counted(name, sessions))}
    if missed:
        told = f"CUDA calls of {len(missed)} benchmarks were counted in no session, so a change of "
        found.append(f"{told}them will not be seen: {next(iter(missed.values()))}")
    return found


def _counts(records: Sequence[Record]) -> dict[str, set[int | None]]:
    """What the sessions that could say so say of each counter.

    CUDA calls are counted by some, those of the compiler by all.
    """
    names = sorted({name for record in records for name in record.counters})
    return {
        name: {r.counters.get(name) for r in (counted(records) if name in KINDS else records)}
        for name in names
    }


def counted(records: Sequence[Record]) -> Sequence[Record]:
    """Those whose CUDA calls were counted, if any were; a count that failed says nothing."""
    return [record for record in records if not _why_not_counted(record)] or records


def _never_counted(name: str, sessions: Sequence[Session]) -> str:
    reasons = [_why_not_counted(r) for s in sessions if (r := s.by_id().get(name))]
    return reasons[0] if all(reasons) else ""


def _why_not_counted(record: Record) -> str:
    return next((note for note in record.notes if note.startswith(NOT_COUNTED)), "")


def combined(sessions: Sequence[Session], day: datetime.date) -> Baseline:
    """One baseline of sessions without objections: medians, and how far the sessions lie apart.

    RecordError without a session.
    """
    if not sessions:
        raise RecordError("no sessions to combine")
    first = sessions[0]
    records: dict[str, Record] = {}
    noise: dict[str, Noise] = {}
    for name in first.by_id():
        measured = [record for s in sessions if (record := s.by_id().get(name)) is not None]
        passed = [record for record in measured if record.outcome == "passed"]
        kept = steady(passed)
        if kept:
            records[name] = _middle(kept, passed)
            if len(kept) > 1:
                noise[name] = Noise(len(kept), _log_sd(kept))
    commit, digest = code_of(first)
    origin = f"{commit}, {day.isoformat()}" + (f", package {digest}" if digest else "")
    start = _medians([{HELD: s.start[HELD]} for s in sessions if HELD in s.start] or [{}])
    origins = dict.fromkeys(records, origin)
    return Baseline(first.machine, first.suite, records, origins, noise, start)


def _middle(records: Sequence[Record], passed: Sequence[Record]) -> Record:
    """The median of every number, intervals at their widest, the counts on which all agree.

    Counts are those of all that `passed`: no disturbance changes them.
    """
    agreed = {name: values for name, values in _counts(passed).items() if len(values) == 1}
    return replace(
        records[-1],
        metrics=_medians([record.metrics for record in records]),
        canary=_medians([record.canary for record in records]),
        facts=_medians([record.facts for record in records]),
        counters={name: count for name, (count,) in agreed.items() if count is not None},
        notes=counted(passed)[-1].notes,
        intervals={
            name: max(record.intervals.get(name, 0.0) for record in records)
            for name in records[-1].intervals
        },
    )


def _medians(numbers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each name that all of them have."""
    names = [name for name in numbers[0] if all(name in other for other in numbers)]
    return {name: median([other[name] for other in numbers]) for name in names}


def _log_sd(records: Sequence[Record]) -> dict[str, float]:
    """Standard deviation of the logarithm of each time over the sessions."""
    times = _medians([record.metrics for record in records])
    return {
        name: deviation([math.log(record.metrics[name]) for record in records])
        for name in times
        if name.endswith("_s") and not name.endswith("_per_s")
        and all(record.metrics[name] > 0 for record in records)
    }  # fmt: skip
