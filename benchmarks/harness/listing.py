"""Which benchmarks a tree's own suite runs: pytest collects it there, and measures nothing.

Its files tell the functions, and not the values that their parameters take.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import listing_plugin
from benchmarks.harness.children import BYTECODE, LOG, run_process, with_bytecode
from benchmarks.harness.parameters import stable_id
from benchmarks.harness.processes import NOTHING_SELECTED, OPTIONS, inherited

PLUGIN = "benchmarks_listing"
TIMEOUT_S = 300.0
MAX_FILES = 3


@dataclass(frozen=True)
class Listing:
    """The ids of a suite's benchmarks under some options."""

    ids: frozenset[str] = frozenset()
    problem: str = ""
    """Why there may be others; empty where these are all."""


def listed(tree: Path, python: str, selection: Sequence[str], home: Path, scratch: Path) -> Listing:
    """The benchmarks that a tree's own pytest selects there, by `home`'s caches."""
    if not (tree / "benchmarks").is_dir():
        return Listing()
    scratch.mkdir()
    shutil.copy2(listing_plugin.__file__, scratch / f"{PLUGIN}.py")
    told = scratch / "listing.json"
    kept = inherited()
    paths = [str(scratch), *filter(None, [kept.get("PYTHONPATH")])]
    variables = {"PYTHONPATH": os.pathsep.join(paths), listing_plugin.VARIABLE: str(told)}
    command = [python, "-m", "pytest", "benchmarks", "--collect-only", "-p", PLUGIN]
    code, text = run_process(
        [*command, *OPTIONS, *selection], tree,
        {**with_bytecode(kept, home / BYTECODE), **variables}, home / LOG, TIMEOUT_S,
    )  # fmt: skip
    if code == NOTHING_SELECTED:
        return Listing()
    if not told.exists():
        last = [line for line in text.splitlines() if line.strip()][-1:]
        return Listing(problem=f"its pytest ended with exit code {code}: {''.join(last).strip()}")
    return _read(json.loads(told.read_text(encoding="utf-8")))


def _read(content: dict[str, list]) -> Listing:
    ids, refused = set(), []
    for name, parameters in content["benchmarks"]:
        try:
            ids.add(stable_id(name, parameters))
        except ValueError as error:
            refused.append(f"{name}: {error}")
    problems = [f"{file} cannot be collected" for file in content["failed"]] + refused
    more = f" and {len(problems) - MAX_FILES} more" if len(problems) > MAX_FILES else ""
    return Listing(frozenset(ids), "; ".join(problems[:MAX_FILES]) + more)
