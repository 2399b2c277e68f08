"""`gate -k`: what the expression would have chosen, and the suite has no longer, is missed."""

from pathlib import Path

import pytest

from benchmarks.harness.fresh import Fresh
from benchmarks.harness.record import Record
from benchmarks.harness.selection import asked_for
from tests.harness.toy_trees import make_toy_tree

STEP = Record("step[n=8]", "benchmarks/bench_step.py::bench_step[8]")
VIEWS = Record("views[light=own]", "benchmarks/bench_views.py::bench_views[own]")


@pytest.mark.parametrize(
    ("keyword", "chosen"),
    [
        ("step", ["step[n=8]"]),
        ("STEP and 8", ["step[n=8]"]),
        ("not step", ["views[light=own]"]),
        ("bench_views", ["views[light=own]"]),
        ("step or own", ["step[n=8]", "views[light=own]"]),
        ("step and views", []),
        ("light", ["step[n=8]", "views[light=own]"]),
        ("core", ["step[n=8]", "views[light=own]"]),
        ("not core", ["step[n=8]", "views[light=own]"]),
        ("core and (views or step[4])", ["step[n=8]", "views[light=own]"]),
        ("core and views", ["views[light=own]"]),
        ("core and not core", []),
        ("fit", []),
    ],
)
def test_names_are_compared_as_pytest_does(keyword: str, chosen: list[str]) -> None:
    """Of files and functions, in any case; a word that names nothing may have been a mark."""
    fits = Record("fit_step", "benchmarks/bench_fit.py::bench_fit")
    assert asked_for(keyword, [STEP, VIEWS], [fits]) == chosen


def test_process_says_what_it_left_out(tmp_path: Path) -> None:
    """By -k: what is neither there nor in its records, the suite has no longer."""
    toy = make_toy_tree(tmp_path / "toy")
    session, _, problem = Fresh(toy.root, ("--device", "cpu")).session(["benchmarks", "-k", "spin"])
    assert session is not None, problem
    assert ([*session.by_id()], session.deselected) == (["spin"], ("steady",))
