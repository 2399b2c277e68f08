"""What a package takes at import is in no benchmark: the process tells it, pairs judge it."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.harness.baseline import Baseline, read_baseline, write_baseline
from benchmarks.harness.blocks import Block
from benchmarks.harness.compare import judge_blocks
from benchmarks.harness.machine import Machine
from benchmarks.harness.memory import read_status
from benchmarks.harness.policy import Policy
from benchmarks.harness.record import RecordError, Session, parse_session
from benchmarks.harness.rules import Status
from benchmarks.harness.startup import (
    HELD,
    PEAK,
    START,
    Startup,
    describe_start,
    screen_start,
    seconds_since_start,
    start_notes,
)
from benchmarks.harness.verdict import Code
from tests.harness.baseline_toys import STEP, Command, Keep, accepted, run
from tests.harness.pairs_toys import MACHINE, POLICY, timed

MIB = 2.0**20
BASE = {START: 8.0, HELD: 300 * MIB, PEAK: 800 * MIB}
TIMES_ALONE = Policy(POLICY.metrics, tuple(e for e in POLICY.entries if e.name == "step*"))


def blocks(head: Mapping[str, float], base: Mapping[str, float] = BASE) -> list[Block]:
    """Six blocks in which nothing else differs."""
    return [
        dataclasses.replace(
            one,
            base=dataclasses.replace(one.base, start=base),
            head=dataclasses.replace(one.head, start=head),
        )
        for one in timed([1.0] * 6)
    ]


def found(
    head: Mapping[str, float], metric: str, policy: Policy = POLICY
) -> tuple[Code, Status | None]:
    """The code of a comparison and the status of one fact of its processes."""
    judged = judge_blocks(blocks(head), policy)
    entries = [
        e.finding for e in judged.entries if (e.finding.id, e.finding.metric) == ("", metric)
    ]
    return judged.code, entries[0].status if entries else None


def test_memory_held_after_import_is_red() -> None:
    """400 MiB at the level of a module: no benchmark's peak knows of them."""
    assert found({**BASE, HELD: 700 * MIB}, HELD) == (Code.REGRESSION, Status.WORSE)
    assert found({**BASE, HELD: 325 * MIB}, HELD) == (Code.PASS, Status.OK)


def test_one_process_that_holds_more_is_no_regression() -> None:
    """Every one of the head must lie above every one of the base."""
    some = blocks(BASE)
    some[2] = dataclasses.replace(some[2], head=blocks({**BASE, HELD: 700 * MIB})[2].head)
    assert judge_blocks(some, POLICY).code is Code.PASS


def test_memory_held_is_shown_where_memory_is_not_judged() -> None:
    """`--metric time_s` asks for times alone."""
    held = {**BASE, HELD: 700 * MIB}
    assert found(held, HELD, TIMES_ALONE) == (Code.PASS, Status.NOT_PROVEN)


def test_slow_start_is_said_and_not_gated() -> None:
    """Seconds until the first benchmark hang on the disk, too."""
    slow = {**BASE, START: 11.0}
    assert found(slow, START) == (Code.PASS, Status.NOT_PROVEN)
    (note,) = start_notes(blocks(slow))
    assert note == (
        "SLOWER START (shown, not gated): base 8.0 s to the first benchmark, 300 MiB held there, "
        "800 MiB at most (RSS); head 11.0 s to the first benchmark, 300 MiB held there, "
        "800 MiB at most (RSS)"
    )
    (note,) = start_notes(blocks({**BASE, START: 9.0}))
    assert note.startswith("processes: base 8.0 s")
    assert [*start_notes(blocks({}))] == []


def test_records_without_a_start_are_judged_as_before() -> None:
    """Older files, and systems that do not tell."""
    assert found({}, HELD) == (Code.PASS, None)


def test_start_survives_json(toy_machine: Machine) -> None:
    """And its absence does."""
    session = Session(toy_machine, "room", "abc", start=BASE)
    content = json.loads(json.dumps(dataclasses.asdict(session)))
    assert parse_session(content, "here") == session
    del content["start"]
    assert parse_session(content, "here").start == {}


@pytest.mark.usefixtures("thawed")
def test_first_look_tells_the_start() -> None:
    """What is taken later is the process's peak alone."""
    startup = Startup()
    assert startup.facts() == {}
    startup.before()
    first = startup.facts()
    held = bytearray(b"x") * (64 << 20)
    startup.before()
    later = startup.facts()
    del held
    assert later[HELD] == first[HELD]
    assert later[START] == first[START]
    assert later[PEAK] >= later[HELD]
    assert "held there" in describe_start(later)


@pytest.mark.usefixtures("thawed")
def test_what_was_freed_is_not_held() -> None:
    """glibc keeps it for later, more or less of it by the timing of threads."""
    before = read_status("RssAnon")
    blocks = [b"x" * (2000 + n % 2) for n in range(50_000)]
    pins = blocks[::50]
    del blocks
    startup = Startup()
    startup.before()
    assert startup.facts()[HELD] < before + 50 * MIB
    assert len(pins) == 1000


def test_age_of_this_process_is_known() -> None:
    """From its own entry in /proc."""
    first, second = seconds_since_start(), seconds_since_start()
    assert first is not None
    assert second is not None
    assert 0 < first <= second


@pytest.mark.parametrize(
    ("stored", "held", "status", "said"),
    [
        (300, 325, Status.OK, "300 -> 325 MiB held before the first benchmark"),
        (300, 200, Status.OK, "10% is allowed"),
        (300, 700, Status.SUSPECT, "300 -> 700 MiB held"),
        (None, 700, Status.NOT_GATED, "the baseline does not have it (baseline record and accept"),
        (300, None, Status.NOT_GATED, "this process does not tell it"),
        (300, math.nan, Status.SUSPECT, "nan MiB"),
    ],
)
def test_one_process_is_screened_against_the_stored_start(
    stored: float | None, held: float | None, status: Status, said: str
) -> None:
    """More than the margin goes on to pairs; what cannot be judged is said, with what to do."""
    kept = Baseline(MACHINE, "room", {}, {}, start={} if stored is None else {HELD: stored * MIB})
    run = dataclasses.replace(
        timed([1.0])[0].head, start={} if held is None else {HELD: held * MIB}
    )
    found = screen_start(run, kept, POLICY)
    assert found.status is status
    assert said in found.detail
    if status is Status.SUSPECT:
        assert screen_start(run, kept, TIMES_ALONE).status is Status.NOT_PROVEN


def test_accepted_sessions_store_what_they_held(
    tmp_path: Path, here: Machine, keep: Keep, command: Command
) -> None:
    """Their median, which accept shows when it moves; older sessions store nothing."""
    keep(run(here, STEP))
    assert command("accept")[0] == 0
    first = accepted(tmp_path, here)
    assert first is not None
    assert first.start == {}
    keep(*(dataclasses.replace(run(here, STEP, commit="def456"), start={**BASE, HELD: mib * MIB})
           for mib in (300, 310, 900)))  # fmt: skip
    code, printed = command("accept")
    assert (code, "start_rss_bytes: - -> 310 MiB" in printed) == (0, True), printed
    second = accepted(tmp_path, here)
    assert second is not None
    assert second.start == {HELD: pytest.approx(310 * MIB, rel=1e-5)}


@pytest.mark.parametrize("start", [{HELD: math.nan}, {HELD: "much"}, []])
def test_damaged_start_of_a_baseline_is_refused(
    tmp_path: Path, toy_machine: Machine, start: object
) -> None:
    """Nothing exceeds a number that is none."""
    path = tmp_path / "room.json"
    write_baseline(path, Baseline(toy_machine, "room", {"step": STEP}, {"step": "abc"}))
    path.write_text(json.dumps({**json.loads(path.read_text()), "start": start}))
    with pytest.raises(RecordError, match="start"):
        read_baseline(path, toy_machine.key, "room")


@pytest.mark.parametrize("metric", [HELD, PEAK, START])
def test_every_fact_has_a_row(metric: str) -> None:
    """Seen also where nothing is wrong."""
    assert found(BASE, metric) == (Code.PASS, Status.OK)
