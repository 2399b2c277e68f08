"""What a benchmark is run over, and the id under which its numbers are kept.

An id is made of names, never of positions: `train_step[batch_size=8,precision=bf16]`. It survives a
moved file, another rootdir and another order of decorators; pytest's node id survives none of them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import pytest

Scalar = bool | int | float | str | None

_NAME = re.compile(r"[\w.:/+-]+")


def axis(
    default: Sequence[Scalar], *, cuda: Sequence[Scalar] = (), full: Sequence[Scalar] = ()
) -> list[object]:
    """Values for `pytest.mark.parametrize`: `default` always, `cuda` on a GPU, `full` on request.

    Values that are only in `full` run with `--full`; values that are in `cuda` and not in `default`
    skip, with a reason, where there is no GPU.
    """
    if not default and not cuda:
        raise ValueError("axis() needs at least one default value")
    values = dict.fromkeys([*full, *default, *cuda])
    return [_parameter(value, default, cuda) for value in values]


def combine(*axes: list[Any], default: Callable[..., bool]) -> list[Any]:
    """The product of axes, for one `parametrize` over all their names.

    Where every combination is too much, those that `default` refuses wait for `--full`.
    """
    combined: list[Any] = []
    for parts in product(*axes):
        values = [part.values[0] for part in parts]
        marks = [mark for part in parts for mark in part.marks]
        if not default(*values):
            marks.append(pytest.mark.full)
        combined.append(pytest.param(*values, id="-".join(part.id for part in parts), marks=marks))
    return combined


def _parameter(value: Scalar, default: Sequence[Scalar], cuda: Sequence[Scalar]) -> object:
    text = value_name(value)
    if value in default:
        return pytest.param(value, id=text)
    mark = pytest.mark.cuda if value in cuda else pytest.mark.full
    return pytest.param(value, id=text, marks=mark)


def value_name(value: object) -> str:
    """How a parameter's value is written in an id; ValueError where that would not be stable."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "none"
    if isinstance(value, int | float) or (isinstance(value, str) and _NAME.fullmatch(value)):
        return str(value)
    raise ValueError(
        f"{value!r} has no stable name in a benchmark's id; accepted are booleans, numbers, None "
        "and strings of letters, digits and . : / + - _"
    )


def stable_id(function: str, parameters: Mapping[str, object]) -> str:
    """`bench_step`, {batch_size: 8} → `step[batch_size=8]`, parameters sorted by name."""
    name = function.removeprefix("bench_")
    if not parameters:
        return name
    return f"{name}[{','.join(f'{k}={value_name(v)}' for k, v in sorted(parameters.items()))}]"


def parameters_of(benchmark_id: str) -> dict[str, str]:
    """The parameters that an id names, as it writes them; {} for one that has none."""
    inside = benchmark_id.partition("[")[2].removesuffix("]")
    pairs = (part.partition("=") for part in inside.split(",") if part)
    return {name: value for name, _, value in pairs}


def matches(pattern: str, benchmark_id: str) -> bool:
    """Whether a glob with * and ? matches an id or its bare name; brackets stand for themselves."""
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    bare = benchmark_id.partition("[")[0]
    return any(re.fullmatch(expression, name) for name in (benchmark_id, bare))
