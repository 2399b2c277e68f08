"""What a base has heard of: read from its files and from a header, never by running them."""

from pathlib import Path

import pytest

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.blocks import BlockFile
from benchmarks.harness.known import Known, known_of, known_of_pair, read_known, suite_names
from benchmarks.harness.trees import TreeError
from tests.harness.pairs_toys import MACHINE, toy

SUITE = """
import pytest

@pytest.mark.parametrize("n", [1, 2])
def bench_step(measure, n): ...

def helper(): ...

if True:
    def bench_inner(measure): ...
"""


def write(root: Path, name: str, text: str) -> None:
    """A file of a suite."""
    (root / "benchmarks").mkdir(parents=True, exist_ok=True)
    (root / "benchmarks" / name).write_text(text, encoding="utf-8")


def test_names_are_those_of_the_functions(tmp_path: Path) -> None:
    """Of every file of benchmarks, wherever they are defined in it, and of no other file."""
    write(tmp_path, "bench_a.py", SUITE)
    write(tmp_path, "workloads.py", "def bench_other(measure): ...")
    assert suite_names(tmp_path) == {"step", "inner"}
    assert suite_names(tmp_path / "nowhere") == frozenset()


def test_name_is_known_whatever_its_parameters(tmp_path: Path) -> None:
    """And an id of the baseline though its function is gone."""
    write(tmp_path, "bench_a.py", SUITE)
    stored = {"old[n=1]": toy("old[n=1]", time_s=1.0)}
    known = known_of(suite_names(tmp_path), Baseline(MACHINE, "room", stored, {}))
    assert [known.knows(one) for one in ("step[n=9]", "inner", "old[n=1]")] == [True] * 3
    assert [known.knows(one) for one in ("old[n=2]", "helper", "stepping")] == [False] * 3
    assert known.metrics == {"old[n=1] time_s"}


@pytest.mark.parametrize(
    ("keyword", "lost"), [("", {"gone"}), ("step", set()), ("gone", {"gone"}), ("core", {"gone"})]
)
def test_what_the_head_took_out_is_lost(tmp_path: Path, keyword: str, lost: set[str]) -> None:
    """Where -k asks for it; a word that is in no name may be a mark that it had."""
    write(tmp_path / "base", "bench_a.py", SUITE)
    write(tmp_path / "base", "bench_b.py", "def bench_gone(measure): ...")
    write(tmp_path / "head", "bench_a.py", SUITE)
    known = known_of_pair(tmp_path / "base", tmp_path / "head", keyword, full=False)
    assert (known.names, known.lost) == ({"step", "inner", "gone"}, lost)


@pytest.mark.parametrize(
    ("mark", "names"),
    [
        ("@pytest.mark.skip", {"step"}),
        ("@pytest.mark.xfail(reason='known')", {"step"}),
        ("@pytest.mark.cuda", {"step"}),
        ("pytestmark = pytest.mark.skipif(True, reason='x')\n", {"step", "inner"}),
        ("@pytest.mark.slow", set()),
    ],
)
def test_new_skip_of_the_head_is_seen(tmp_path: Path, mark: str, names: set[str]) -> None:
    """Of a benchmark or its whole file; those that the base has, too, are no change."""
    write(tmp_path / "base", "bench_a.py", SUITE)
    write(tmp_path / "head", "bench_a.py", SUITE.replace("@pytest", f"{mark}\n@pytest", 1))
    known = known_of_pair(tmp_path / "base", tmp_path / "head", "", full=False)
    assert (known.unskipped, known.lost) == (names, frozenset())
    back = known_of_pair(tmp_path / "head", tmp_path / "head", "", full=False)
    assert back.unskipped == frozenset()


def test_what_only_full_runs_now_is_lost(tmp_path: Path) -> None:
    """Unless the run is a full one."""
    write(tmp_path / "base", "bench_a.py", SUITE)
    marked = SUITE.replace("@pytest", "@pytest.mark.full\n@pytest", 1)
    write(tmp_path / "head", "bench_a.py", marked)
    for full, lost in ((False, {"step"}), (True, set())):
        known = known_of_pair(tmp_path / "base", tmp_path / "head", "", full=full)
        assert known.lost == lost


@pytest.mark.parametrize("text", ["def (", "x = '\0'", "(" * 5000])
def test_file_that_is_no_python_is_one_error(tmp_path: Path, text: str) -> None:
    """It names the file; a head may hold anything."""
    write(tmp_path, "bench_a.py", text)
    with pytest.raises(TreeError, match=r"bench_a\.py"):
        suite_names(tmp_path)


def test_header_holds_it(tmp_path: Path) -> None:
    """So that blocks alone give the same verdict again."""
    known = Known(
        frozenset({"a"}), frozenset({"b"}), frozenset({"a time_s"}), frozenset("c"), frozenset("d"),
        frozenset({"e[n=1]"}),
    )  # fmt: skip
    file = BlockFile(tmp_path / "blocks.jsonl")
    file.start({"known": known.content()})
    assert read_known(file.read()[0]["known"]) == known


@pytest.mark.parametrize(
    "content", [None, [], {"ids": []}, {"ids": [1], "names": [], "metrics": []}]
)
def test_damaged_header_makes_nothing_new(content: object) -> None:
    """Fewer known benchmarks would make more of them new."""
    assert read_known(content) is None
