"""What `-k` would have chosen of benchmarks that the suite has no longer: it must be missed."""

import re
from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import PurePosixPath

from _pytest.mark.expression import Expression  # pytest's own reading of -k; it has no public one

from benchmarks.harness.record import Record

_WORD = re.compile(r"[\w:+\-.\[\]\\/]+")
"""Of an expression, as pytest takes it apart; only from 9.2 on does it tell them itself."""
_OPERATORS = frozenset({"and", "or", "not"})


def asked_for(keyword: str, lost: Sequence[Record], known: Collection[Record]) -> list[str]:
    """Ids of the `lost` benchmarks that this expression may choose.

    By their names, as pytest does. Marks of what cannot be collected are not known: a word that is
    in the name of no `known` benchmark may be one of its marks, or may not.
    """
    expression = Expression.compile(keyword)
    told = {name for record in (*lost, *known) for name in _names(record)}
    words = set(_WORD.findall(keyword)) - _OPERATORS
    marks = sorted(word.lower() for word in words if not _is_in(word, told))
    return [record.id for record in lost if _may_choose(expression, marks, _names(record))]


def _may_choose(expression: Expression, marks: Sequence[str], names: Collection[str]) -> bool:
    """Whether any marks that it may have had let it be chosen."""
    return any(
        expression.evaluate(lambda word, /, had=had, **_: _is_in(word, {*names, *had}))
        for num in range(len(marks) + 1)
        for had in combinations(marks, num)
    )


def _names(record: Record) -> set[str]:
    """What pytest compares with: the names of folders, file and function, with its parameters."""
    file, _, function = record.node.partition("::")
    return {part.lower() for part in (*PurePosixPath(file).parts, function)}


def _is_in(word: str, names: Collection[str]) -> bool:
    return any(word.lower() in name for name in names)
