"""How a red line is seen again: one benchmark, from a base that still exists when it is read."""

from pathlib import Path

import pytest

from benchmarks.harness.again import again, base_word
from benchmarks.harness.trees import Source

NAME = "bench_step[graphed-8-bf16]"
NODE = f"benchmarks/bench_toy.py::{NAME}"


def base(label: str, commit: str = "0123456789ab") -> Source:
    """A base of this name."""
    return Source(Path("somewhere"), label, commit)


@pytest.mark.parametrize(
    ("label", "word"),
    [
        ("origin/main", "0123456789ab"),
        ("working tree (dirty)", ""),
        ("folder /srv/export", "/srv/export"),
        ("folder /srv/benchmarks-ab-77-x/base-source", "0123456789ab"),
    ],
)
def test_base_is_named_by_what_stays(label: str, word: str) -> None:
    """A branch moves on, and a folder of ours is gone."""
    assert base_word(base(label)) == word


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ab --resume", f"ab 0123456789ab -k '{NAME}'"),
        ("ab HEAD~1 -k step --device cpu", f"ab 0123456789ab -k '{NAME}' --device cpu"),
        ("ab --patch a.patch", f"ab 0123456789ab -k '{NAME}' --patch a.patch"),
    ],
)
def test_exactly_one_benchmark_is_chosen(command: str, expected: str) -> None:
    """By its node, with the options of the run, from the start."""
    found = again(f"python -m benchmarks {command}", base("HEAD"), NODE, "step[x]")
    assert found == f"python -m benchmarks {expected}"


def test_faults_and_odd_nodes() -> None:
    """Variables stay variables; what pytest cannot read as a word is chosen by its name."""
    command = "BENCHMARK_FAULT='slow:30:step*' python -m benchmarks ab HEAD"
    found = again(command, base("HEAD"), "b.py::bench_step[a=1 b]", "step[a=1 b]")
    told = "BENCHMARK_FAULT='slow:30:step*' python -m benchmarks ab 0123456789ab -k bench_step"
    assert found == told
    assert again("see abc", base("HEAD"), NODE, "step") == ""
