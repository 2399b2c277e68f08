"""What a base knows: only a benchmark that it has never heard of may be new.

By the ids of its stored baseline, and by the names in its suite, which are read and not run. A name
is known whatever its parameters: static text does not tell which values a suite runs.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.baseline import Baseline
from benchmarks.harness.trees import TreeError

SUITE_FILES = "bench_*.py"
PREFIX = "bench_"


@dataclass(frozen=True)
class Known:
    """The base's benchmarks, by what it has stored and what its suite defines."""

    ids: frozenset[str] = frozenset()
    """Of the baseline of this machine."""
    names: frozenset[str] = frozenset()
    """Bare names: functions of the suite."""
    metrics: frozenset[str] = frozenset()
    """`id metric` of the baseline."""

    def knows(self, benchmark_id: str) -> bool:
        """Whether this benchmark, or one of its name, is the base's."""
        return benchmark_id in self.ids or bare(benchmark_id) in self.names

    def content(self) -> dict[str, list[str]]:
        """For the header of a file of blocks."""
        parts = {"ids": self.ids, "names": self.names, "metrics": self.metrics}
        return {name: sorted(part) for name, part in parts.items()}


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
    parts = [content.get(name) for name in ("ids", "names", "metrics")]
    if not all(isinstance(p, list) and all(isinstance(t, str) for t in p) for p in parts):
        return None
    return Known(*(frozenset(map(str, part or ())) for part in parts))


def suite_names(root: Path) -> frozenset[str]:
    """Bare names of all benchmarks that a tree's suite defines; TreeError for what is no Python."""
    found: set[str] = set()
    for path in sorted((root / "benchmarks").rglob(SUITE_FILES)):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith(PREFIX):
                found.add(node.name.removeprefix(PREFIX))
    return frozenset(found)


def parsed(path: Path) -> ast.Module:
    """A file's syntax tree; TreeError where it has none."""
    try:
        return ast.parse(path.read_bytes(), path.name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TreeError(f"benchmarks/{path.name} cannot be read as Python ({error})") from error
