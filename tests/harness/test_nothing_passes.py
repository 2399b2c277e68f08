"""A judged run by a person's own command line, in ways in which it measures nothing that counts."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness.verdict import Code
from tests.harness.toy_trees import BENCHMARKS, ToyTree, clean_environment, make_toy_tree

EXPECTED = """
import pytest

@pytest.mark.xfail(reason="known")
def bench_wrong(measure):
    measure(lambda: TIME.spend(0.01), rounds=3)
    assert rap.COST_S > 1
"""


@pytest.fixture
def toy(tmp_path: Path) -> ToyTree:
    """A toy repository that has no baseline yet."""
    return make_toy_tree(tmp_path / "toy")


def judged(toy: ToyTree, *arguments: str, **extra: str) -> tuple[int, str]:
    """`pytest benchmarks --benchmark-compare`, and what it printed."""
    command = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-compare",
               "--device", "cpu", "-p", "no:cacheprovider", *arguments]  # fmt: skip
    done = subprocess.run(command, cwd=toy.root, env={**clean_environment(), **extra},
                          capture_output=True, text=True, check=False)  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_everything_skipped_is_coverage(toy: ToyTree) -> None:
    """A first run of which nothing could be kept is no first run."""
    code, printed = judged(toy, "--benchmark-skip")
    assert (code, "nothing was measured" in printed) == (Code.COVERAGE, True), printed


def test_wrong_answer_that_was_expected_is_wrong(toy: ToyTree) -> None:
    """An xfail is no skip: what it measured is of code that fails its check."""
    toy.write("benchmarks/bench_toy.py", BENCHMARKS + EXPECTED)
    code, printed = judged(toy)
    assert (code, "WRONG ANSWER" in printed) == (Code.REGRESSION, True), printed
    assert "expected to fail: AssertionError" in printed


def test_left_over_variable_does_not_switch_judging_off(toy: ToyTree) -> None:
    """The file of a process that is long gone: the run would end with 0 and no verdict."""
    code, printed = judged(toy, BENCHMARK_RECORDS_FILE=str(toy.root / "records.json"))
    assert (code, "unset it" in printed) == (Code.USAGE, True), printed
