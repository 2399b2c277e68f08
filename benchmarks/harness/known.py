"""What a base knows: only a benchmark that it has never heard of may be new.

By the ids of its stored baseline, and by the names in its suite, which are read and not run. A name
is known whatever its parameters: static text does not tell which values a suite runs.
"""

import ast
from collections.abc import Collection, Mapping
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

    def knows(self, benchmark_id: str) -> bool:
        """Whether this benchmark, or one of its name, is the base's."""
        return benchmark_id in self.ids or bare(benchmark_id) in self.names

    def content(self) -> dict[str, list[str]]:
        """For the header of a file of blocks."""
        return {"ids": sorted(self.ids), "names": sorted(self.names)}


def bare(benchmark_id: str) -> str:
    """An id without its parameters."""
    return benchmark_id.partition("[")[0]


def known_of(root: Path, baseline: Baseline | None = None) -> Known:
    """What a tree knows: its suite's names, and the ids of its baseline."""
    ids: Collection[str] = () if baseline is None else baseline.records
    return Known(frozenset(ids), suite_names(root))


def read_known(content: object) -> Known | None:
    """What `Known.content` wrote; None for anything else: then nothing may be new."""
    if not isinstance(content, Mapping):
        return None
    parts = [content.get(name) for name in ("ids", "names")]
    if not all(isinstance(p, list) and all(isinstance(t, str) for t in p) for p in parts):
        return None
    return Known(*(frozenset(map(str, part or ())) for part in parts))


def suite_names(root: Path) -> frozenset[str]:
    """Bare names of all benchmarks that a tree's suite defines; TreeError for what is no Python."""
    found: set[str] = set()
    for path in sorted((root / "benchmarks").glob(SUITE_FILES)):
        for node in parsed(path).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith(PREFIX):
                found.add(node.name.removeprefix(PREFIX))
    return frozenset(found)


def parsed(path: Path) -> ast.Module:
    """A file's syntax tree; TreeError where it has none."""
    try:
        return ast.parse(path.read_bytes(), path.name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TreeError(f"benchmarks/{path.name} cannot be read as Python ({error})") from error
