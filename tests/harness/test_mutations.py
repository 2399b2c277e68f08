"""What the gate must not survive: damaged data ends non-zero, a damaged comparator fails its tests.

The first half goes through `python -m benchmarks report`, as data from an unknown machine does. The
second half edits the comparator's source and runs the tests that guard it.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.harness.baseline import COMMITTED, added, write_baseline
from benchmarks.harness.handover import Evidence, write_evidence
from benchmarks.harness.machine import Machine
from benchmarks.harness.record import Record, Session
from benchmarks.harness.verdict import Code
from tests.harness.mutants import require_killed
from tests.harness.toy_policy import POLICY

STEP = Record("step", "n", metrics={"time_s": 1.0, "error_m": 0.1}, counters={"launches": 3})
OTHER = dataclasses.replace(STEP, id="step_b")
Content = dict[str, Any]
Change = Callable[[Content], object]


@pytest.fixture
def paths(tmp_path: Path, toy_machine: Machine, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A tree with a baseline, and the evidence of a run that is as good."""
    monkeypatch.setenv("CI", "true")
    session = Session(toy_machine, "room", "abc", (STEP, OTHER))
    stored = tmp_path / COMMITTED / toy_machine.key / "room.json"
    write_baseline(stored, added(None, session))
    (tmp_path / "benchmarks" / "policy.toml").write_text(POLICY, encoding="utf-8")
    evidence = tmp_path / "evidence.json"
    write_evidence(evidence, Evidence(session))
    return {"baseline": stored, "evidence": evidence, "root": tmp_path}


def edit(path: Path, change: Change) -> None:
    """Change the JSON in a file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def first(content: Content) -> Content:
    """The first record of the run."""
    return content["run"]["records"][0]


MUTATIONS: list[tuple[str, str, Change, Code]] = [
    ("NaN", "evidence", lambda c: first(c)["metrics"].update(time_s=float("nan")),
     Code.REGRESSION),
    ("infinity", "evidence", lambda c: first(c)["metrics"].update(error_m=float("inf")),
     Code.REGRESSION),
    ("minus infinity", "evidence", lambda c: first(c)["metrics"].update(time_s=float("-inf")),
     Code.REGRESSION),
    ("an error of zero", "evidence", lambda c: first(c)["metrics"].update(error_m=0.0),
     Code.REGRESSION),
    ("missing benchmark", "evidence", lambda c: c["run"]["records"].pop(), Code.COVERAGE),
    ("renamed benchmark", "evidence", lambda c: first(c).update(id="step_c"), Code.COVERAGE),
    ("missing metric", "evidence", lambda c: first(c)["metrics"].pop("error_m"), Code.COVERAGE),
    ("missing counter", "evidence", lambda c: first(c).update(counters={}), Code.COVERAGE),
    ("changed counter", "evidence", lambda c: first(c)["counters"].update(launches=4),
     Code.REGRESSION),
    ("skipped", "evidence", lambda c: first(c).update(outcome="skipped"), Code.COVERAGE),
    ("crashed", "evidence", lambda c: first(c).update(outcome="errored"), Code.COVERAGE),
    ("duplicated id", "evidence", lambda c: first(c).update(id="step_b"), Code.USAGE),
    ("nothing measured", "evidence", lambda c: c["run"].update(records=[]), Code.COVERAGE),
    ("other clock", "evidence", lambda c: first(c).update(clock="gpu"), Code.COVERAGE),
    ("foreign machine", "evidence", lambda c: c["run"]["machine"].update(cpu="Other"),
     Code.ENVIRONMENT),
    ("foreign suspects", "evidence", lambda c: c.update(remeasured=[
        {**c["run"], "machine": {**c["run"]["machine"], "cpu": "Other"}}]), Code.USAGE),
    ("stale schema", "evidence", lambda c: c.update(schema=1), Code.USAGE),
    ("stale schema", "baseline", lambda c: c.update(schema=1), Code.USAGE),
    ("empty baseline", "baseline", lambda c: c.update(benchmarks={}), Code.USAGE),
    ("foreign baseline", "baseline", lambda c: c.update(key="gpu_h200"), Code.USAGE),
    ("NaN baseline", "baseline",
     lambda c: c["benchmarks"]["step"]["metrics"].update(time_s=float("nan")), Code.USAGE),
    ("unknown field", "evidence", lambda c: first(c).update(bonus=1), Code.USAGE),
    ("text for a number", "evidence", lambda c: first(c)["metrics"].update(time_s="fast"),
     Code.USAGE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "change", "code"),
    [m[1:] for m in MUTATIONS],
    ids=[f"{m[0]}-{m[1]}" for m in MUTATIONS],
)
def test_damaged_data_ends_non_zero(
    paths: dict[str, Path], file: str, change: Change, code: Code
) -> None:
    """With the code that names what is wrong with it."""
    edit(paths[file], change)
    assert main(["report", str(paths["evidence"])], paths["root"]) == code


def test_undamaged_data_passes(paths: dict[str, Path]) -> None:
    """Otherwise the mutations above would prove nothing; one round is as good as many."""
    edit(paths["evidence"], lambda c: first(c).update(rounds=1))
    assert main(["report", str(paths["evidence"])], paths["root"]) == Code.PASS


SOURCES = [
    ("policy.py", "return now - baseline if self.better", "return baseline - now if self.better"),
    ("rules.py", "if loss > allowed:", "if loss < -allowed:"),
    ("rules.py", "if not math.isfinite(value):", "if False:"),
    ("rules.py", "slower, worst = machine_slower(", "slower, worst = 9.0, machine_slower("),
    ("verdict.py", "if name not in records:", "if False:"),
    ("verdict.py", "if count > 1:", "if False:"),
    ("verdict.py", "if before is None or before == after:", "if True:"),
    ("verdict.py", "return next((code for code in SEVERITY if code in codes), Code.PASS)",
     "return Code.PASS"),
    ("pairs.py", "if found.p_above(rule.margin) < rule.level(route):", "if False:"),
    ("pairs.py", "if found.bound(0.975) < rule.interest:", "if True:"),
    ("blocks.py", "sign = 1.0 if better == \"lower\" else -1.0",
     "sign = -1.0 if better == \"lower\" else 1.0"),
    ("blocks.py", "_log_ratio(base, head) for base, head", "_log_ratio(base, head) for head, base"),
    ("noninferior.py", "if found.high < allowed:", "if True:"),
    ("noninferior.py", "if found.low > 0:", "if False:"),
    ("noninferior.py", "found.setdefault(block.index,", "found.setdefault(len(found),"),
    ("interest.py", "Interest(effect, COARSE_MARGIN * effect)", "Interest(effect)"),
]  # fmt: skip
GUARDS = (
    "test_rules.py", "test_verdict.py", "test_pairs.py", "test_compare.py", "test_noninferior.py",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("file", "line", "mutant"), SOURCES)
def test_damaged_comparator_fails_its_tests(
    tmp_path: Path, file: str, line: str, mutant: str
) -> None:
    """Sign flipped, arms swapped, a family left out: each mutant is killed."""
    require_killed(tmp_path, file, line, mutant, GUARDS)
