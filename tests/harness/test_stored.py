"""Records and baselines on disk: what is written is read back, and anything else is refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.baseline import (
    Baseline,
    added,
    is_local,
    locate,
    read_baseline,
    renewed,
    write_baseline,
)
from benchmarks.harness.machine import Machine
from benchmarks.harness.record import (
    Record,
    RecordError,
    Session,
    read_record,
    read_session,
    write_session,
)
from benchmarks.harness.subject import Subject

FLOATS = st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=3)
RECORDS = st.builds(
    Record,
    st.text(max_size=10),
    st.text(max_size=10),
    outcome=st.sampled_from(["passed", "wrong", "errored", "skipped"]),
    clock=st.sampled_from(["wall", "gpu"]),
    warm_up=st.sampled_from(["verified", "fixed", "unsteady"]),
    metrics=FLOATS,
    intervals=FLOATS,
    counters=st.dictionaries(st.text(max_size=8), st.integers(-(2**63), 2**63), max_size=2),
    invalid=st.lists(st.text(max_size=5), max_size=2).map(tuple),
)
STEP = Record("step", "benchmarks/bench_toy.py::bench_step", metrics={"time_s": 1.0})
SLOW = dataclasses.replace(STEP, metrics={"time_s": 2.0})
OTHER = dataclasses.replace(STEP, id="other")


def session(machine: Machine, *records: Record) -> Session:
    """A run of the toy suite."""
    return Session(machine, "room", "abc123", records)


@pytest.fixture
def stored(tmp_path: Path, toy_machine: Machine) -> Path:
    """A baseline on disk with one benchmark."""
    path = tmp_path / "room.json"
    write_baseline(path, added(None, session(toy_machine, STEP)))
    return path


def reread(path: Path, machine: Machine) -> Baseline:
    """The baseline in a file, which must be there."""
    found = read_baseline(path, machine.key, "room")
    assert found is not None
    return found


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON in a file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@given(RECORDS)
def test_record_survives_json(record: Record) -> None:
    """Every field, infinities included."""
    content = json.loads(json.dumps(dataclasses.asdict(record)))
    assert read_record(content, "here") == record


def test_session_survives_the_disk(tmp_path: Path, toy_machine: Machine) -> None:
    """How a fresh process hands over what it measured."""
    path = tmp_path / "deep" / "records.json"
    found = dataclasses.replace(
        session(toy_machine, STEP, OTHER),
        subject=Subject("/arm/rap/__init__.py", "0123456789ab"),
        ceilings={"bytes_per_s": 1e12},
    )
    write_session(path, found)
    assert read_session(path) == found
    assert [f.name for f in path.parent.iterdir()] == ["records.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(outcome="maybe"), "outcome.*none of passed"),
        (lambda c: c.update(metrics={"time_s": "1"}), "time_s.*not a number"),
        (lambda c: c.update(metrics={"time_s": True}), "not a number"),
        (lambda c: c.update(extra=1), "unknown: extra"),
        (lambda c: c.pop("cache"), "missing or unknown: cache"),
        (lambda c: c.update(id=3), "not a string"),
        (lambda c: c.update(notes="x"), "must be a list"),
    ],
)
def test_record_that_does_not_fit_is_refused(
    change: Callable[[dict[str, object]], object], message: str
) -> None:
    """The field is named."""
    content = json.loads(json.dumps(dataclasses.asdict(STEP)))
    change(content)
    with pytest.raises(RecordError, match=message):
        read_record(content, "here")


def test_baseline_survives_the_disk(stored: Path, toy_machine: Machine) -> None:
    """Records, origins, machine."""
    found = reread(stored, toy_machine)
    assert dict(found.records) == {"step": STEP}
    assert found.origins["step"].startswith("abc123, 2")
    assert found.machine == toy_machine


def test_absent_baseline_is_none(tmp_path: Path) -> None:
    """A first run is no error."""
    assert read_baseline(tmp_path / "room.json", "key", "room") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema=0), "schema 0, this harness reads 2; measure"),
        (lambda c: c.update(kind="session"), "not a baseline"),
        (lambda c: c.update(key="gpu_h200"), "is the baseline of gpu_h200"),
        (lambda c: c.update(suite="fox"), "fox"),
        (lambda c: c.update(benchmarks={}), "holds no benchmarks"),
        (lambda c: c["benchmarks"]["step"].pop("origin"), "no origin"),
        (lambda c: c["benchmarks"]["step"].update(outcome="wrong"), "no finite, passed"),
        (lambda c: c["benchmarks"]["step"]["metrics"].update(time_s=float("nan")), "no finite"),
        (lambda c: c["benchmarks"]["step"].update(id="other"), "no finite, passed measurement"),
        (lambda c: c["machine"].pop("cpu"), "machine: fields missing or unknown: cpu"),
    ],
)
def test_baseline_that_must_not_be_used_is_refused(
    stored: Path, toy_machine: Machine, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    """Foreign, older, empty, damaged: each names the file and the reason."""
    edit(stored, change)
    with pytest.raises(RecordError, match=message) as error:
        read_baseline(stored, toy_machine.key, "room")
    assert str(stored) in str(error.value)


def test_unreadable_baseline_is_refused(stored: Path, toy_machine: Machine) -> None:
    """Half a file is not a first run."""
    stored.write_text(stored.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(RecordError, match="cannot be read as JSON"):
        read_baseline(stored, toy_machine.key, "room")


def test_adding_never_touches_what_is_stored(toy_machine: Machine) -> None:
    """A slow run cannot creep in; a new benchmark can."""
    old = added(None, session(toy_machine, STEP))
    new = added(old, session(toy_machine, SLOW, OTHER))
    assert new.records["step"] is STEP
    assert new.records["other"] is OTHER


def test_renewing_replaces_what_was_asked_for(toy_machine: Machine) -> None:
    """What was asked for and is gone is dropped; what was not asked for stays."""
    gone = dataclasses.replace(STEP, id="gone")
    old = added(None, session(toy_machine, STEP, OTHER, gone))
    new = renewed(old, session(toy_machine, SLOW), asked=["step", "gone"])
    assert dict(new.records) == {"other": OTHER, "step": SLOW}
    assert set(new.origins) == {"other", "step"}


def test_failed_benchmarks_are_never_stored(toy_machine: Machine) -> None:
    """Neither added nor renewed."""
    wrong = dataclasses.replace(STEP, outcome="wrong")
    run = session(toy_machine, wrong)
    assert added(None, run).records == {}
    assert renewed(None, run, asked=[]).records == {}


def test_committed_baselines_come_first(tmp_path: Path) -> None:
    """Else the machine's own, which git ignores; a given folder beats both."""
    local = locate(tmp_path, "key", "room")
    assert local == tmp_path / ".benchmarks/rap/key/room.json"
    assert is_local(tmp_path, local)
    committed = tmp_path / "benchmarks/baselines/key/room.json"
    committed.parent.mkdir(parents=True)
    committed.touch()
    assert locate(tmp_path, "key", "room") == committed
    assert not is_local(tmp_path, committed)
    assert locate(tmp_path, "key", "room", Path("there")) == Path("there/key/room.json")


def test_numbers_are_stored_with_six_digits(tmp_path: Path, toy_machine: Machine) -> None:
    """A diff of a baseline shows changes, not noise in the tenth digit."""
    path = tmp_path / "room.json"
    long = dataclasses.replace(STEP, metrics={"time_s": 0.12345678901})
    write_baseline(path, added(None, session(toy_machine, long)))
    assert '"time_s": 0.123457' in path.read_text(encoding="utf-8")
