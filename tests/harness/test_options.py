"""What the command line means, and the combinations that are refused with what to type instead."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.harness.options import (
    PARENT,
    RECORDS_FILE,
    Wanted,
    read_options,
    refuse_incompatible,
    refuse_shape_checks,
)
from benchmarks.harness.suite import shuffled

DEFAULTS: dict[str, object] = {
    "benchmark_compare": [], "benchmark_json": None, "benchmark_save": None,
    "benchmark_autosave": None, "benchmark_only": False, "benchmark_enable": False,
    "benchmark_disable": False, "benchmark_skip": False, "benchmark_record": False,
    "benchmark_compare_fail": None, "collectonly": False, "full": False, "scene": "room",
    "device": "auto", "baseline_dir": None, "dist": "no",
    "benchmark_order": None, "benchmark_count": False,
    "benchmark_evidence": None,
}  # fmt: skip


OURS = ("benchmark_record", "benchmark_order", "benchmark_count", "benchmark_evidence")
"""Options that are there without pytest-benchmark, too."""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever process these tests run in."""
    for name in (RECORDS_FILE, PARENT, "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)


def config(**options: object) -> Any:  # noqa: ANN401 (pytest's config)
    """As much of pytest's configuration as the options need."""
    option = SimpleNamespace(**{**DEFAULTS, **options})
    return SimpleNamespace(option=option, invocation_params=SimpleNamespace(dir=Path.cwd()))


def read(**options: object) -> Wanted:
    """What is wanted under these options."""
    return read_options(config(**options))


def test_plain_pytest_is_untimed() -> None:
    """And pytest-benchmark is told so."""
    given = config()
    wanted = read_options(given)
    assert (wanted.timed, wanted.judged) == (False, False)
    assert given.option.benchmark_disable


def test_bare_compare_is_ours() -> None:
    """pytest-benchmark, which would fail on a first run, does not see it."""
    given = config(benchmark_compare=True)
    wanted = read_options(given)
    assert wanted.timed
    assert wanted.judged
    assert given.option.benchmark_compare == []


def test_compare_with_a_run_stays_theirs_and_is_judged() -> None:
    """Our verdict comes in addition."""
    given = config(benchmark_compare="0001")
    assert read_options(given).judged
    assert given.option.benchmark_compare == "0001"


@pytest.mark.parametrize("name", ["benchmark_json", "benchmark_save", "benchmark_autosave"])
def test_saving_is_timed_and_judged(name: str) -> None:
    """A saved slow run is still slow."""
    wanted = read(**{name: "x"})
    assert wanted.timed
    assert wanted.judged


@pytest.mark.parametrize("name", ["benchmark_only", "benchmark_enable", "benchmark_count"])
def test_timing_alone_is_not_judged(name: str) -> None:
    """Numbers were asked for, not a verdict."""
    wanted = read(**{name: True})
    assert (wanted.timed, wanted.judged) == (True, False)


def test_only_is_taken_over() -> None:
    """pytest-benchmark would skip benchmarks that do not name its fixture."""
    given = config(benchmark_only=True, benchmark_skip=True)
    assert read_options(given).only
    assert not given.option.benchmark_only


def test_collecting_measures_nothing() -> None:
    """--collect-only must not end as COVERAGE."""
    wanted = read(benchmark_compare=True, collectonly=True)
    assert (wanted.timed, wanted.judged) == (False, False)


def test_fresh_process_judges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It only hands its records over, whatever PYTEST_ADDOPTS adds."""
    monkeypatch.setenv(RECORDS_FILE, "records.json")
    monkeypatch.setenv(PARENT, str(os.getppid()))
    wanted = read(benchmark_compare=True, benchmark_record=True)
    assert (wanted.timed, wanted.judged, wanted.record) == (True, False, False)
    assert wanted.records_file == Path("records.json")


@pytest.mark.parametrize("parent", [None, str(os.getpid())])
def test_left_over_records_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, parent: str | None
) -> None:
    """A person's run would hand its records to nobody, and pass without a verdict."""
    monkeypatch.setenv(RECORDS_FILE, "records.json")
    if parent is not None:
        monkeypatch.setenv(PARENT, parent)
    with pytest.raises(pytest.UsageError, match=f"{RECORDS_FILE}=records.json .* unset it"):
        read(benchmark_compare=True)


def test_folder_as_a_run_id_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pytest --benchmark-compare benchmarks` would run everything against nothing."""
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.chdir(tmp_path)
    for value in ("benchmarks", "benchmarks::bench_x"):
        with pytest.raises(pytest.UsageError, match="write: pytest benchmarks"):
            read(benchmark_compare=value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"benchmark_compare": True, "benchmark_disable": True}, "nothing would be measured"),
        ({"benchmark_only": True, "benchmark_disable": True}, "nothing would be measured"),
        ({"benchmark_compare": True, "dist": "load"}, "in parallel"),
        ({"benchmark_compare": True, "benchmark_count": True}, "counts by itself"),
        ({"benchmark_evidence": Path("x.json")}, "add --benchmark-compare"),
        ({"benchmark_compare": True, "benchmark_compare_fail": ["min:5%"]}, "compare-fail"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], message: str) -> None:
    """Each would pass without having measured."""
    with pytest.raises(pytest.UsageError, match=message):
        read(**options)


def test_xdist_worker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own options do not tell that it is one."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    with pytest.raises(pytest.UsageError, match="in parallel"):
        read(benchmark_compare=True)
    assert not read().timed


def test_timing_without_pytest_benchmark_is_refused() -> None:
    """`-p no:benchmark` keeps the untimed run working."""
    given = config(benchmark_record=True)
    for name in [n for n in DEFAULTS if n.startswith("benchmark_") and n not in OURS]:
        delattr(given.option, name)
    with pytest.raises(pytest.UsageError, match="needs pytest-benchmark"):
        read_options(given)
    given.option.benchmark_record = False
    assert not read_options(given).timed


@pytest.mark.parametrize(
    ("theirs", "ours", "works"),
    [("5.2.3", (9, 1), True), ("5.2.3", (9, 2), False), ("5.3.1", (9, 2), True)],
)
def test_pair_of_versions_that_fails_is_refused(
    theirs: str, ours: tuple[int, ...], works: bool
) -> None:
    """Each was run: the old one looks for something that the new pytest has no more."""
    if works:
        refuse_incompatible(theirs, ours)
    else:
        with pytest.raises(pytest.UsageError, match="does not work under"):
            refuse_incompatible(theirs, ours)


def test_order_is_of_its_seed_alone() -> None:
    """However the benchmarks were found; tests that are none come last, as they were."""

    def items(names: str) -> list[Any]:
        benchmarks = [SimpleNamespace(nodeid=name, fixturenames=["measure"]) for name in names]
        return [SimpleNamespace(nodeid="test", fixturenames=[]), *benchmarks]

    def order(names: str, seed: int) -> str:
        return "".join(item.nodeid for item in shuffled(items(names), seed))

    assert order("abcdef", 1) == order("fedcba", 1) != order("abcdef", 2)
    assert sorted(order("abcdef", 1)[:6]) == list("abcdef")
    assert order("abcdef", 1).endswith("test")
    assert read(benchmark_order=5).order == 5


def test_shape_checks_are_seen() -> None:
    """tests/conftest.py has installed the hook in this very process."""
    with pytest.raises(pytest.UsageError, match="pytest benchmarks --benchmark-compare"):
        refuse_shape_checks()


def test_without_the_hook_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pytest benchmarks` never loads tests/conftest.py."""
    monkeypatch.setattr("sys.meta_path", [])
    refuse_shape_checks()
