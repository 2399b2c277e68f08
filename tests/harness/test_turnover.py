"""Benchmarks that a change adds or takes away: declared ones pass with a note, lost ones do not."""

from dataclasses import replace

import pytest

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.judge import Terms, merged
from benchmarks.harness.policy import Entry, MetricRule, Policy
from benchmarks.harness.record import Outcome, Record
from benchmarks.harness.rules import Finding, Status
from benchmarks.harness.screen import screen
from benchmarks.harness.turnover import approvals_in, with_turnover
from tests.harness.pairs_toys import MACHINE, session, toy

RULES = {"time_s": MetricRule("time", "lower", relative=0.25, confirm=0.15)}
BASE = ("step", "view", "golden")
SUITE = frozenset({"step", "view", "golden"})


def policy(*names: str) -> Policy:
    """One entry for each."""
    return Policy(RULES, tuple(Entry(name, "Ada", ("time_s",)) for name in names))


def timed(name: str, outcome: Outcome = "passed") -> Record:
    """It took a second."""
    return toy(name, outcome=outcome, time_s=1.0)


def judged(
    run: tuple[str, ...], declared: tuple[str, ...], names: frozenset[str],
    stored: tuple[str, ...] = ("step", "view"), *, selected: bool = False,
    outcome: Outcome = "passed", ours: tuple[str, ...] = BASE,
) -> dict[str, Status]:  # fmt: skip
    """What the screen says about a head that ran, declares and defines these, times aside."""
    theirs = policy(*declared)
    terms = Terms(merged(policy(*ours), theirs), theirs, SUITE, names)
    records = session(*(timed(name, outcome) for name in run))
    records = replace(records, deselected=tuple(sorted(names - {*run})) if selected else ())
    by_id = {name: timed(name) for name in stored}
    baseline = Baseline(MACHINE, "room", by_id, dict.fromkeys(by_id, "abc, 2026-01-01"))
    found = screen(records, baseline, terms.policy, keyword="step or more" if selected else "")
    found = with_turnover(found, records, baseline, terms, selected=selected)
    return {f.id: f.status for f in found.findings if not f.metric}


def test_same_suite_has_no_turnover() -> None:
    """Nothing came or went."""
    assert judged(BASE, BASE, SUITE) == {}


def test_declared_addition_is_new() -> None:
    """In the head's suite and policy, unknown to the base."""
    found = judged((*BASE, "more"), (*BASE, "more"), SUITE | {"more"})
    assert found == {"more": Status.NEW}


def test_addition_without_an_entry_has_no_policy() -> None:
    """It is not called new as well."""
    assert judged((*BASE, "more"), BASE, SUITE | {"more"}) == {"more": Status.UNLISTED}


def test_addition_that_crashes_is_a_crash() -> None:
    """New is no excuse."""
    found = judged(("more",), (*BASE, "more"), SUITE | {"more"}, (), selected=True,
                   outcome="errored")  # fmt: skip
    assert found == {"more": Status.ERRORED}


def test_declared_removal_is_removed() -> None:
    """From the suite and from the policy."""
    assert judged(("step", "golden"), ("step", "golden"), SUITE - {"view"}) == {
        "view": Status.REMOVED
    }


def test_removal_whose_entry_stays_is_missing() -> None:
    """The policy still promises it."""
    assert judged(("step", "golden"), BASE, SUITE - {"view"}) == {"view": Status.MISSING}
    assert judged(("step", "golden"), ("step", "golden", "vi*"), SUITE - {"view"}) == {
        "view": Status.MISSING,
        "vi*": Status.MISSING,
    }


def test_entry_without_its_benchmark_s_removal_is_missing() -> None:
    """The suite still defines it, and it was not run: nobody has taken it away."""
    assert judged(("step", "golden"), ("step", "golden"), SUITE) == {"view": Status.MISSING}


def test_dropped_entry_of_a_benchmark_that_runs_changes_nothing() -> None:
    """The base's entry judges it."""
    assert judged(BASE, ("step", "golden"), SUITE) == {}


def test_removal_that_no_baseline_shows_is_seen_in_the_suite() -> None:
    """A benchmark without numbers, or younger than the baseline."""
    entry = ("step", "view", "gold*")
    assert judged(("step", "view"), entry, SUITE - {"golden"})["golden"] is Status.MISSING
    assert judged(("step", "view"), ("step", "view"), SUITE - {"golden"}) == {
        "golden": Status.REMOVED
    }


def test_lost_benchmark_under_a_glob_of_others_is_missing() -> None:
    """The entry has benchmarks left, and no baseline shows that one is gone."""
    globs = ("step", "*e*")
    found = judged(("step", "view"), globs, SUITE - {"golden"}, ours=globs)
    assert found == {"golden": Status.MISSING}
    found = judged(("step", "view"), ("step", "vi*"), SUITE - {"golden"}, ours=globs)
    assert found == {"golden": Status.REMOVED}


def test_parameter_is_removed_like_a_benchmark() -> None:
    """Its name is still defined, its other values were run, and no entry holds for it."""
    ours = ("step[n=1]", "step[n=2]", "view")
    run, declared = ("step[n=1]", "view", "golden"), ("step[n=1]", "view", "golden")
    found = judged(run, declared, SUITE, ours)
    assert found["step[n=2]"] is Status.REMOVED
    assert judged(run, (*declared, "step"), SUITE, ours)["step[n=2]"] is Status.MISSING


def test_selection_takes_nothing_away() -> None:
    """With -k coverage is judged over what that asks for."""
    assert judged(("step",), BASE, SUITE, selected=True) == {}


def test_selected_benchmark_that_has_gone_is_missed_unless_declared() -> None:
    """As without -k: out of the suite alone it is lost."""
    found = judged(("more",), BASE, SUITE - {"step"} | {"more"}, selected=True)
    assert found["step"] is Status.MISSING
    declared = ("view", "golden")
    found = judged(("more",), declared, SUITE - {"step"} | {"more"}, selected=True)
    assert found["step"] is Status.REMOVED


@pytest.mark.parametrize("status", [Status.NEW, Status.REMOVED])
def test_turnover_asks_for_approval(status: Status) -> None:
    """By name; a metric that is new says nothing about the suite."""
    findings = [Finding(f"step{n}", "", status) for n in range(12)]
    (asked,) = approvals_in([*findings, Finding("view", "time_s", Status.NEW)])
    assert "step0, step1" in asked
    assert "and 2 more" in asked
    assert "view" not in asked
    assert approvals_in([Finding("view", "time_s", Status.NEW)]) == ()
