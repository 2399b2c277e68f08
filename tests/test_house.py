"""House rules that a look at the source can check; ruff, pyrefly and import-linter do the rest."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
LATE = ("tyro", "matplotlib", "timm", "gsplat", "fused_ssim")
"""Slow, optional or compiling on import: loaded by the function that needs them."""

IMPORT_EVERYTHING = f"""
import importlib, pkgutil, sys, rap
modules = [m.name for m in pkgutil.walk_packages(rap.__path__, "rap.")]
for name in modules:
    # the kernels' modules need Triton, which comes with torch's CUDA builds only
    if not (name.startswith(("rap.cli", "rap.__main__")) or name.endswith("_kernel")):
        importlib.import_module(name)
print(*sorted(set({LATE!r}) & set(sys.modules)))
"""


@cache
def sources(*folders: str) -> dict[str, ast.Module]:
    """Parsed Python files by their path from the root; all of them without an argument."""
    files = [f for name in folders or ("rap", "benchmarks", "tests")
             for f in sorted((ROOT / name).rglob("*.py"))]  # fmt: skip
    return {str(f.relative_to(ROOT)): ast.parse(f.read_text(encoding="utf-8")) for f in files}


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a module, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imported(tree: ast.Module) -> set[str]:
    """Dotted names that a module imports anywhere: `from a.b import c` counts as `a.b.c`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_no_file_is_too_long() -> None:
    """A file holds one thing."""
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines())
               for path in sources()}  # fmt: skip
    assert {p: n for p, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_no_function_is_too_long() -> None:
    """A function fits on a screen."""
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in sources().items()
        for node in functions(tree)
        if (node.end_lineno or node.lineno) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_annotations_are_real() -> None:
    """Shape checks and the settings' loader read annotations at run time."""
    banned = {"__future__.annotations", "typing.TYPE_CHECKING"}
    assert [path for path, tree in sources().items() if imported(tree) & banned] == []


def test_every_test_says_what_it_shows() -> None:
    """One sentence per test, so that a failure reads as a statement."""
    silent = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in sources("tests", "benchmarks").items()
        for node in functions(tree)
        if node.name.startswith(("test_", "bench_")) and not ast.get_docstring(node)
    ]
    assert silent == []


def test_harness_knows_nothing_of_rap() -> None:
    """One judge for two versions of rap: it may not change with what it judges."""
    foreign = {
        path: sorted(n for n in imported(tree) if n.split(".")[0] == "rap")
        for path, tree in sources("benchmarks/harness").items()
    }
    assert {path: names for path, names in foreign.items() if names} == {}


def test_benchmarks_use_public_names_only() -> None:
    """An A/B runs today's benchmarks over another version of rap: private names may be gone."""
    private = {
        path: sorted(n for n in imported(tree) if n.startswith("rap.") and "._" in n)
        for path, tree in sources("benchmarks").items()
    }
    assert {path: names for path, names in private.items() if names} == {}


def test_readme_is_the_only_page_in_the_root() -> None:
    """One page for people; no notes beside it."""
    assert {f.name for f in ROOT.glob("*.md")} <= {"README.md"}


def test_importing_rap_stays_light() -> None:
    """Only the command line and the functions that need them load the libraries in LATE."""
    command = [sys.executable, "-c", IMPORT_EVERYTHING]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
