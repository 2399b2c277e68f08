"""What a suite runs, asked of pytest in its own tree: values of parameters, not only names."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.harness import listing
from benchmarks.harness.children import LOG
from benchmarks.harness.judge import changes_suite
from benchmarks.harness.listing import Listing, listed
from tests.harness.test_ab_processes import run
from tests.harness.toy_trees import BENCHMARKS, ToyTree, make_toy_tree

SELECTION = ("--device", "cpu", "--scene", "room")
SWEEP = """
import pytest
from benchmarks.harness.parameters import axis

SIZES = [8 * 2 ** n for n in range(4)]

@pytest.mark.parametrize("batch_size", axis(SIZES[:3:2] + [64], full=SIZES))
def bench_sweep(measure, batch_size):
    measure(lambda: TIME.spend(0.001 * batch_size), rounds=3)
"""
LARGEST = "sweep[batch_size=64]"


def play(monkeypatch: pytest.MonkeyPatch, content: object, code: int = 0, text: str = "") -> None:
    """Stands in for the process: what it writes, how it ends, what it prints last."""

    def ended(_command: object, _tree: Path, environment: dict[str, str], *_: object) -> tuple:
        assert Path(environment["PYTHONPATH"], "benchmarks_listing.py").is_file()
        if content is not None:
            path = Path(environment["BENCHMARK_LISTING"])
            path.write_text(json.dumps(content), encoding="utf-8")
        return code, text

    monkeypatch.setattr(listing, "run_process", ended)


def ask(tmp_path: Path, tree: Path | None = None) -> Listing:
    """List a tree with a folder of benchmarks."""
    if tree is None:
        tree = tmp_path / "tree"
        (tree / "benchmarks").mkdir(parents=True)
    return listed(tree, sys.executable, SELECTION, tmp_path / "home", tmp_path / "scratch")


def test_ids_are_made_of_names_and_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By this harness, whatever the listed tree's own makes of them."""
    found = [["bench_a", {"n": 64, "b": True}], ["bench_a", {"n": None, "b": 0.5}], ["bench_b", {}]]
    play(monkeypatch, {"benchmarks": found, "failed": []})
    assert ask(tmp_path) == Listing(frozenset({"a[b=on,n=64]", "a[b=0.5,n=none]", "b"}))


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (None, 5, ""),
        (None, 4, "its pytest ended with exit code 4: ERROR: no option --scene"),
        ({"benchmarks": [["bench_a", {}]], "failed": ["benchmarks/bench_b.py"]}, 1,
         "benchmarks/bench_b.py cannot be collected"),
        ({"benchmarks": [["bench_a", {}], ["bench_b", {"n": "<object>"}]], "failed": []}, 0,
         "b: '<object>' has no stable name"),
        ({"benchmarks": [], "failed": ["a.py", "b.py", "c.py", "d.py", "e.py"]}, 1,
         "c.py cannot be collected and 2 more"),
    ],
)  # fmt: skip
def test_what_cannot_be_listed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, code: int, said: str
) -> None:
    """Whatever the age of that tree; a selection of nothing is no problem."""
    play(monkeypatch, content, code, "usage: pytest\nERROR: no option --scene\n\n")
    found = ask(tmp_path)
    assert said in found.problem
    assert bool(said) == bool(found.problem)


def test_tree_without_benchmarks_has_none(tmp_path: Path) -> None:
    """A base from before the suite."""
    assert ask(tmp_path, tmp_path / "nowhere") == Listing()


@pytest.mark.parametrize(
    ("name", "changes"),
    [("benchmarks/workloads.py", True), ("conftest.py", True), ("benchmarks/harness/a.py", True),
     ("rap/more.py", False), ("benchmarks/policy.toml", False), ("notes.txt", False)],
)  # fmt: skip
def test_only_another_suite_is_listed(tmp_path: Path, name: str, changes: bool) -> None:
    """It takes seconds, which most comparisons need not spend."""
    base, head = (make_toy_tree(tmp_path / side, harness=False) for side in ("base", "head"))
    head.write(name, "# other")
    assert changes_suite(base.root, head.root) is changes


@pytest.fixture
def toy(tmp_path: Path) -> ToyTree:
    """A suite with a sweep over sizes that its text does not name."""
    toy = make_toy_tree(tmp_path / "toy")
    toy.write("benchmarks/bench_toy.py", BENCHMARKS + SWEEP)
    toy.commit("sweep")
    return toy


@pytest.mark.slow
def test_suite_is_listed_by_its_own_pytest(toy: ToyTree, tmp_path: Path) -> None:
    """Under the options of a run; a file that fails is named, and nothing is measured."""
    found = ask(tmp_path, toy.root)
    sweep = {f"sweep[batch_size={n}]" for n in (8, 32, 64)}
    log = (tmp_path / "home" / LOG).read_text(encoding="utf-8")
    assert found == Listing(frozenset({"spin", "steady", *sweep})), log
    toy.write("benchmarks/bench_broken.py", "import nothing_of_that_name")
    (tmp_path / "more").mkdir()
    found = listed(toy.root, sys.executable, (*SELECTION, "--full", "-k", "sweep"),
                   tmp_path / "home", tmp_path / "more" / "scratch")  # fmt: skip
    assert found.ids == {*sweep, "sweep[batch_size=16]"}
    assert found.problem == "benchmarks/bench_broken.py cannot be collected"


@pytest.mark.slow
def test_value_that_the_head_has_taken_out_is_coverage_end_to_end(toy: ToyTree) -> None:
    """`ab` alone, without a baseline, names it; with -k where that asks for it."""
    toy.cost(0.00502)
    toy.write("benchmarks/bench_toy.py", BENCHMARKS + SWEEP.replace(" + [64]", ""))
    for keyword, code in (("", 12), ("spin", 0), ("sweep and 64 or spin", 12)):
        options = ("-k", keyword) if keyword else ()
        found, printed = run(toy, "HEAD", "--effect", "20%", *options)
        assert found == code, printed
        assert (LARGEST in printed) is (code == 12)
        assert "sweep[batch_size=8]: is in the base's" not in printed
