"""The screen of the gate: what one pass decides, and what it leaves to pairs."""

import math
from dataclasses import replace

import pytest

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.policy import Entry, Policy
from benchmarks.harness.record import Record
from benchmarks.harness.rules import Status
from benchmarks.harness.screen import Screened, screen
from benchmarks.harness.startup import HELD
from tests.harness.pairs_toys import MACHINE, POLICY, session, toy

ALL = Policy(
    POLICY.metrics, tuple(e for e in POLICY.entries if e.name.startswith(("step", "learn", "hold")))
)


def baseline(*records: Record) -> Baseline:
    """What this machine has stored."""
    by_id = {record.id: record for record in records}
    return Baseline(MACHINE, "room", by_id, dict.fromkeys(by_id, "abc, 2026-01-01"))


STORED = (
    toy("step_a", time_s=1.0),
    toy("step_b", time_s=1.0),
    replace(toy("learn", error_m=0.3), samples={"error_m": (0.2, 0.3, 0.4)}),
    toy("hold", exact_bytes=1e6, noisy_bytes=1e6),
)


def screened(*changed: Record) -> Screened:
    """A pass that is the stored one but for these records."""
    now = {record.id: record for record in (*STORED, *changed)}
    return screen(session(*now.values()), baseline(*STORED), ALL)


def statuses(found: Screened) -> dict[str, Status]:
    """What the screen itself has decided against."""
    quiet = (Status.OK, Status.BETTER, Status.NEW)
    return {f"{f.id} {f.metric}".strip(): f.status for f in found.findings if f.status not in quiet}


def test_unchanged_pass_leaves_only_accuracy_to_pairs() -> None:
    """Trainings are compared over the same seeds in both arms, always."""
    found = screened()
    assert (found.suspects, found.paired, found.num_gated) == ((), ("learn",), 2)
    assert found.ids == ("learn",)
    assert statuses(found) == {}


@pytest.mark.parametrize("held", [700.0, 310.0])
def test_more_held_at_the_start_goes_on_to_pairs(held: float) -> None:
    """By the quickest benchmark: every pair of processes tells it, whatever they measure."""
    stored = replace(baseline(*STORED), start={HELD: 300.0 * 2**20})
    quick = replace(toy("step_b", time_s=1.0, first_call_s=0.01))
    records = [quick if record.id == "step_b" else record for record in STORED]
    found = screen(replace(session(*records), start={HELD: held * 2**20}), stored, ALL)
    more = held > 400
    assert found.ids == (("learn", "step_b") if more else ("learn",))
    assert found.suspects == ()
    assert [f.status for f in found.findings if f.metric == HELD] == ([] if more else [Status.OK])
    assert (found.unjudged, found.quickest) == ("", "step_b")


def test_start_that_no_baseline_tells_is_left_to_pairs() -> None:
    """It neither passes nor fails, and whoever decides by the screen alone says so."""
    found = screened()
    assert "was not judged: the baseline does not have it" in found.unjudged
    assert HELD not in {finding.metric for finding in found.findings}


@pytest.mark.parametrize("seconds", [1.02, 1.3, 5.0])
def test_slower_time_goes_on_to_pairs(seconds: float) -> None:
    """However much slower: a session's offset is no evidence against the code."""
    found = screened(toy("step_a", time_s=seconds))
    assert (found.suspects, statuses(found)) == (("step_a",), {})


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.009])
def test_clearly_fine_time_is_done(seconds: float) -> None:
    """Within the loose one per cent, or faster."""
    assert screened(toy("step_a", time_s=seconds)).suspects == ()


def test_slower_machine_excuses_nothing() -> None:
    """Canaries that are as much slower may be noise, or a thread that the change left running."""
    stored = replace(STORED[0], canary={"wall.copy": 1.0})
    now = replace(toy("step_a", time_s=1.1), canary={"wall.copy": 1.1})
    found = screen(session(now), baseline(stored), ALL, keyword="step")
    assert found.suspects == ("step_a",)


def test_new_benchmark_is_compared_with_the_base() -> None:
    """The baseline does not know it; the base's code may."""
    found = screened(toy("step_new", time_s=1.0))
    assert found.suspects == ("step_new",)


def test_invalid_time_goes_on_to_pairs() -> None:
    """Throttled is not slow."""
    found = screened(replace(toy("step_a", time_s=9.0), invalid=("hw_thermal",)))
    assert (found.suspects, statuses(found)) == (("step_a",), {})


@pytest.mark.parametrize(
    ("record", "name", "status"),
    [
        (toy("step_a", outcome="wrong"), "step_a", Status.WRONG),
        (toy("step_a", outcome="errored"), "step_a", Status.ERRORED),
        (toy("step_a", time_s=math.nan), "step_a time_s", Status.IMPOSSIBLE),
        (toy("step_a"), "step_a time_s", Status.MISSING),
        (toy("orphan", time_s=1.0), "orphan", Status.UNLISTED),
        (toy("hold", exact_bytes=2e6, noisy_bytes=1e6), "hold exact_bytes", Status.WORSE),
        (replace(STORED[0], cache="cold"), "step_a time_s", Status.STALE),
    ],
)
def test_what_a_stored_number_can_decide(record: Record, name: str, status: Status) -> None:
    """Coverage, answers, impossible numbers, exact memory."""
    assert statuses(screened(record)) == {name: status}


def test_noisy_memory_goes_on_to_pairs() -> None:
    """One process's peak accuses nobody."""
    found = screened(toy("hold", exact_bytes=1e6, noisy_bytes=2e6))
    assert (found.suspects, statuses(found)) == (("hold",), {})


def test_accuracy_without_seeds_is_decided_here() -> None:
    """A picture beside the exact one repeats: pairs would tell nothing more."""
    found = screened(toy("learn", error_m=0.5))
    assert found.ids == ()
    assert statuses(found) == {"learn error_m": Status.WORSE}


def test_lost_accuracy_is_coverage() -> None:
    """Pairs would compare two arms that both lack it."""
    assert statuses(screened(toy("learn"))) == {"learn error_m": Status.MISSING}


@pytest.mark.parametrize(("seconds", "suspects"), [(12.0, ()), (13.0, ("open",))])
def test_coarse_time_is_screened_by_its_own_margin(
    seconds: float, suspects: tuple[str, ...]
) -> None:
    """A compiler's seconds repeat to 10 %: the loose one per cent would suspect every run."""
    policy = Policy(POLICY.metrics, tuple(e for e in POLICY.entries if e.name == "open*"))
    stored = baseline(toy("open", open_s=10.0))
    found = screen(session(toy("open", open_s=seconds)), stored, policy, keyword="open")
    assert found.suspects == suspects


def test_whole_policy_is_demanded() -> None:
    """An entry that no benchmark matches has lost it; with -k that is not judged."""
    run = session(*STORED[:2])
    full = screen(run, baseline(*STORED[:2]), ALL)
    assert statuses(full) == {"hold*": Status.MISSING, "learn*": Status.MISSING}
    left_out = replace(run, deselected=("hold", "learn"))
    assert statuses(screen(left_out, baseline(*STORED), ALL, keyword="step")) == {}
    assert statuses(screen(left_out, baseline(*STORED), ALL, keyword="core")) == {}


@pytest.mark.parametrize(
    ("keyword", "missed"), [("step", ["step_b"]), ("step_a", []), ("core", ["learn", "step_b"])]
)
def test_selected_benchmark_that_the_suite_lost_is_missing(keyword: str, missed: list[str]) -> None:
    """Deleted or renamed; with a mark nobody knows whether it had it, and it is not left out."""
    run = replace(session(STORED[0]), deselected=("hold",))
    found = statuses(screen(run, baseline(*STORED), ALL, keyword=keyword))
    assert found == dict.fromkeys(missed, Status.MISSING)


def test_no_baseline_is_environment() -> None:
    """A gate without anything to screen against proves nothing."""
    found = screen(session(*STORED), None, ALL)
    assert Status.NO_BASELINE in {finding.status for finding in found.findings}


def test_advisory_benchmarks_are_no_suspects() -> None:
    """They are shown by the screen and never paired."""
    policy = Policy(POLICY.metrics, (Entry("step*", "x", ("time_s",), tier="advisory"),))
    run = session(toy("step_a", time_s=9.0))
    found = screen(run, baseline(STORED[0]), policy, keyword="step")
    assert (found.suspects, found.num_gated) == ((), 0)
