"""Ids are stable, and axes say which values run where."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.parameters import axis, combine, matches, stable_id, value_name

NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
VALUES = st.one_of(st.integers(), st.booleans(), st.none(), st.sampled_from(["bf16", "a/b", "1.5"]))


def marks(parameters: list[Any]) -> dict[object, list[str]]:
    """The values of an axis with the names of their marks."""
    return {p.values[0]: [mark.name for mark in p.marks] for p in parameters}


def test_default_values_carry_no_mark() -> None:
    """What a user turns most runs in every run."""
    assert marks(axis([8, 64])) == {8: [], 64: []}


def test_full_adds_values_behind_a_mark() -> None:
    """The rest of the axis waits for --full, in its own order."""
    assert list(marks(axis([8, 64], full=[1, 8, 64, 128])).items()) == [
        (1, ["full"]), (8, []), (64, []), (128, ["full"]),
    ]  # fmt: skip


def test_cuda_values_run_by_default_on_a_gpu_only() -> None:
    """They are marked, so that they skip with a reason elsewhere."""
    found = marks(axis(["fp32"], cuda=["fp32", "bf16"], full=["fp32", "bf16", "fp16"]))
    assert found == {"fp32": [], "bf16": ["cuda"], "fp16": ["full"]}


def test_axis_without_values_is_refused() -> None:
    """It would make a benchmark that silently never runs."""
    with pytest.raises(ValueError, match="at least one default"):
        axis([], full=[1])


def test_combinations_keep_the_marks_of_their_values() -> None:
    """What the product would make too much of waits for --full; a GPU's values stay a GPU's."""
    found: list[Any] = combine(
        axis([8], full=[1]), axis([False], cuda=[True]), default=lambda n, fast: not fast or n == 8
    )
    assert {p.id: [mark.name for mark in p.marks] for p in found} == {
        "1-off": ["full"], "1-on": ["full", "cuda", "full"], "8-off": [], "8-on": ["cuda"],
    }  # fmt: skip
    assert found[-1].values == (8, True)


def test_id_is_made_of_names() -> None:
    """Function, parameters, values, as they are printed."""
    found = stable_id("bench_train_step", {"precision": "bf16", "batch_size": 8, "compiled": True})
    assert found == "train_step[batch_size=8,compiled=on,precision=bf16]"


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_id_ignores_the_order_of_parameters(parameters: Mapping[str, object]) -> None:
    """Another order of decorators is the same benchmark."""
    backwards = dict(reversed(list(parameters.items())))
    assert stable_id("bench_x", parameters) == stable_id("bench_x", backwards)


@pytest.mark.parametrize("value", [object(), "two words", [1], "a,b"])
def test_value_without_a_stable_name_is_refused(value: object) -> None:
    """An address or a comma in an id would break its identity."""
    with pytest.raises(ValueError, match="stable name"):
        value_name(value)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("step", True), ("step*", True), ("step[n=8]", True), ("step[n=?]", True),
     ("ste", False), ("step[n=9]", False), ("*", True)],
)  # fmt: skip
def test_globs_take_brackets_literally(pattern: str, found: bool) -> None:
    """An id can be pasted into the policy as it is printed."""
    assert matches(pattern, "step[n=8]") is found
