"""Golden numbers and their twins: the base's hold, and what only the head names is added to them.

A change must be able to bring a new golden; it must not be able to move one that judges it. The
same rule as for the policy: the base's entries first, the head's where the base has none.
"""

import ast
import json
from pathlib import Path

from benchmarks.harness.known import parsed
from benchmarks.harness.trees import TreeError

GOLDENS = ("goldens.json", "frozen.py", "frozen_views.py", "plain.py")
"""Numbers, frozen inputs with their tolerances, plain float64 twins; all in `benchmarks/`."""
HEADING = "\n\n# What only the head defines.\n"


def add_goldens(judge: Path, head: Path) -> None:
    """Complete the base's golden files in `judge` by what only the head's have."""
    for name in GOLDENS:
        ours, theirs = judge / name, head / name
        if not theirs.exists() or (ours.exists() and ours.read_bytes() == theirs.read_bytes()):
            continue
        if not ours.exists():
            ours.write_bytes(theirs.read_bytes())
        elif theirs.suffix == ".json":
            ours.write_text(with_new_parts(ours, theirs), encoding="utf-8")
        else:
            ours.write_text(with_new_names(ours, theirs), encoding="utf-8")


def with_new_parts(base: Path, head: Path) -> str:
    """The base's parts of golden numbers, each as a whole, and those that only the head has."""
    ours, theirs = _parts(base), _parts(head)
    if theirs.keys() <= ours.keys():
        return base.read_text(encoding="utf-8")
    return json.dumps({**theirs, **ours}, indent=1) + "\n"


def _parts(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TreeError(f"benchmarks/{path.name} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise TreeError(f"benchmarks/{path.name} must hold parts by their names")
    return content


def with_new_names(base: Path, head: Path) -> str:
    """The base's module, then each top-level definition and import of a name that it lacks.

    What it uses is not lacking: a built-in defined anew would change what its functions do.
    """
    ours = parsed(base)
    bound = {name for node in ours.body for name in _binds(node)}
    bound |= {node.id for node in ast.walk(ours) if isinstance(node, ast.Name)}
    added = [part for node in parsed(head).body if (part := _new_part(node, bound))]
    text = base.read_text(encoding="utf-8")
    return text + HEADING + "\n\n".join(map(ast.unparse, added)) + "\n" if added else text


def _new_part(node: ast.stmt, bound: set[str]) -> ast.stmt | None:
    """A statement that binds only new names, an import without those that the base has."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        new = [alias for alias in node.names if _imported(alias) not in bound]
        if not new or (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            return None
        if isinstance(node, ast.Import):
            return ast.Import(new)
        return ast.ImportFrom(node.module, new, node.level)
    names = _binds(node)
    return node if names and not names & bound else None


def _binds(node: ast.stmt) -> set[str]:
    """The names that a top-level definition, assignment to plain names or import gives a value."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {_imported(alias) for alias in node.names}
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.AnnAssign):
        return {node.target.id} if isinstance(node.target, ast.Name) else set()
    if isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) for t in node.targets):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return set()


def _imported(alias: ast.alias) -> str:
    return (alias.asname or alias.name).partition(".")[0]
