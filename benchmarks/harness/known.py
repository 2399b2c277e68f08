"""What a base knows: only a benchmark that it has never heard of may be new.

By the ids of its stored baseline, and by the names in its suite, which are read and not run. A name
is known whatever its parameters: static text does not tell which values a suite runs (`listing`
asks pytest, where that matters).
"""

import ast
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.record import Record
from benchmarks.harness.selection import asked_for
from benchmarks.harness.trees import TreeError

SUITE_FILES = "bench_*.py"
PREFIX = "bench_"
PARTS, LATER = ("ids", "names", "metrics"), ("lost", "unskipped", "listed")
"""Of what is known, in a header; older headers lack the later ones."""
SKIPS = ("skip", "skipif", "xfail", "importorskip")
MARKS = ("cuda", "full")
"""What keeps a benchmark from being measured, beside those."""


@dataclass(frozen=True)
class Known:
    """The base's benchmarks, by what it has stored and what its suite defines."""

    ids: frozenset[str] = frozenset()
    """Of the baseline of this machine."""
    names: frozenset[str] = frozenset()
    """Bare names: functions of the suite."""
    metrics: frozenset[str] = frozenset()
    """`id metric` of the baseline."""
    lost: frozenset[str] = frozenset()
    """Names that were asked for, and that the head's suite has no longer or runs no longer."""
    unskipped: frozenset[str] = frozenset()
    """Names that the head's suite skips, or expects to fail, where the base's does not so."""
    listed: frozenset[str] = frozenset()
    """Ids that the base's own suite would run under the same options, where the head changes it."""

    def knows(self, benchmark_id: str) -> bool:
        """Whether this benchmark, or one of its name, is the base's."""
        return benchmark_id in self.ids or bare(benchmark_id) in self.names

    def content(self) -> dict[str, list[str]]:
        """For the header of a file of blocks."""
        return {name: sorted(getattr(self, name)) for name in (*PARTS, *LATER)}


def bare(benchmark_id: str) -> str:
    """An id without its parameters."""
    return benchmark_id.partition("[")[0]


def known_of(names: frozenset[str], baseline: Baseline | None = None) -> Known:
    """What a suite of these names and its baseline of this machine know."""
    stored = {} if baseline is None else baseline.records
    metrics = {f"{name} {metric}" for name, record in stored.items() for metric in record.metrics}
    return Known(frozenset(stored), names, frozenset(metrics))


def read_known(content: object) -> Known | None:
    """What `Known.content` wrote; None for anything else: then nothing may be new."""
    if not isinstance(content, Mapping):
        return None
    parts = [*map(content.get, PARTS), *(content.get(name, []) for name in LATER)]
    if not all(isinstance(p, list) and all(isinstance(t, str) for t in p) for p in parts):
        return None
    return Known(*(frozenset(map(str, part or ())) for part in parts))


def suite_names(root: Path) -> frozenset[str]:
    """Bare names of all benchmarks that a tree's suite defines; TreeError for what is no Python."""
    return frozenset(_marks(root))


def known_of_pair(base: Path, head: Path, keyword: str, *, full: bool) -> Known:
    """What a base's suite knows beside a head's, whose benchmarks both arms run.

    So what the head has taken out, or skips, is in neither arm: only the files tell that it is
    gone. `keyword` is -k.
    """
    ours, theirs = _marks(base), _marks(head)
    added = {name: theirs[name].skips - ours[name].skips for name in ours if name in theirs}
    gone = {name for name in ours if name not in theirs}
    gone |= {n for n, marks in added.items() if not full and any("mark.full" in m for m in marks)}
    if keyword:
        lost = [Record(name, ours[name].node) for name in sorted(gone)]
        rest = [Record(name, theirs[name].node) for name in theirs]
        gone = set(asked_for(keyword, lost, rest))
    unskipped = frozenset(name for name, marks in added.items() if marks)
    return Known(names=frozenset(ours), lost=frozenset(gone), unskipped=unskipped)


@dataclass(frozen=True)
class _Marks:
    """Where a benchmark stands, and everything that may skip it: its own, and its file's."""

    node: str
    skips: Counter[str]


def _marks(root: Path) -> dict[str, _Marks]:
    """Of every benchmark of a tree's suite."""
    found: dict[str, _Marks] = {}
    for path in sorted((root / "benchmarks").rglob(SUITE_FILES)):
        tree = parsed(path)
        ours = [
            node for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name.startswith(PREFIX)
        ]  # fmt: skip
        inner = {node.name: _skips(node) for node in ours}
        outer = _skips(tree) - sum(inner.values(), Counter[str]())
        for name, skips in inner.items():
            node = f"{path.relative_to(root).as_posix()}::{name}"
            found[name.removeprefix(PREFIX)] = _Marks(node, skips + outer)
    return found


def _skips(tree: ast.AST) -> Counter[str]:
    """The calls and marks that may skip, as text, so that a changed condition is another one."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else node
        name = getattr(called, "attr", getattr(called, "id", ""))
        marked = name in MARKS and ast.unparse(called).endswith(f"mark.{name}")
        if name in SKIPS or marked:
            found[ast.unparse(node)] += 1
    return found


def parsed(path: Path) -> ast.Module:
    """A file's syntax tree; TreeError where it has none."""
    try:
        return ast.parse(path.read_bytes(), path.name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TreeError(f"benchmarks/{path.name} cannot be read as Python ({error})") from error
