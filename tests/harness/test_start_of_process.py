"""What a package takes at import is in no benchmark: the process tells it, pairs judge it."""

import dataclasses
import json
from collections.abc import Mapping

import pytest

from benchmarks.harness.blocks import Block
from benchmarks.harness.compare import judge_blocks
from benchmarks.harness.machine import Machine
from benchmarks.harness.policy import Policy
from benchmarks.harness.record import Session, parse_session
from benchmarks.harness.rules import Status
from benchmarks.harness.startup import (
    HELD,
    PEAK,
    START,
    Startup,
    describe_start,
    seconds_since_start,
    start_notes,
)
from benchmarks.harness.verdict import Code
from tests.harness.pairs_toys import POLICY, timed

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


def test_age_of_this_process_is_known() -> None:
    """From its own entry in /proc."""
    first, second = seconds_since_start(), seconds_since_start()
    assert first is not None
    assert second is not None
    assert 0 < first <= second


@pytest.mark.parametrize("metric", [HELD, PEAK, START])
def test_every_fact_has_a_row(metric: str) -> None:
    """Seen also where nothing is wrong."""
    assert found(BASE, metric) == (Code.PASS, Status.OK)
