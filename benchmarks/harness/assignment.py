"""What a process of an A/B was told: which package is its arm's, and which benchmarks to run.

The runner writes it to a file and names it in BENCHMARK_ARM; the plugin refuses to go on (USAGE)
when anything of the package was imported from elsewhere, or its sources are not the arm's.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.subject import PACKAGE, digest_of

VARIABLE = "BENCHMARK_ARM"


class ForeignPackageError(ValueError):
    """A process measures another package than its arm's."""


@dataclass(frozen=True)
class Assignment:
    """One process's part."""

    root: str
    """The arm's tree."""
    digest: str
    """Of the package's sources in it."""
    ids: tuple[str, ...] | None = None
    """Benchmarks to run; None: all that the command line selects."""
    paired: bool = True
    """Whether the other arm runs the same; a pass over one tree is measured as baselines are."""
    block: int = 0
    """Which block it is part of: each has seeds of its own for what is trained."""

    def write(self, path: Path) -> None:
        """Store it for the process that gets `path` in BENCHMARK_ARM."""
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    def wants(self, benchmark_id: str) -> bool:
        """Whether a benchmark is part of this process's block."""
        return self.ids is None or benchmark_id in self.ids

    def check(self) -> None:
        """ForeignPackageError unless every imported module of the package is the arm's own."""
        folder = Path(self.root).resolve() / PACKAGE
        for name, file in imported_files().items():
            if not file.is_relative_to(folder):
                raise ForeignPackageError(
                    f"{name} was imported from {file}, this arm is {folder}: "
                    "its numbers would be those of other code"
                )
        digest_of.cache_clear()
        if imported_files() and digest_of(folder) != self.digest:
            raise ForeignPackageError(f"{folder} has changed since its tree was composed")


def imported_files(package: str = PACKAGE) -> Mapping[str, Path]:
    """The modules of the package that this process has imported, and where each lies."""
    found = {}
    for name, module in [*sys.modules.items()]:
        file = getattr(module, "__file__", None)
        if file is not None and (name == package or name.startswith(f"{package}.")):
            found[name] = Path(file).resolve()
    return found


def from_environment() -> Assignment | None:
    """The assignment of this process; None outside an A/B."""
    path = os.environ.get(VARIABLE)
    if path is None:
        return None
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    ids = content["ids"]
    ids = None if ids is None else tuple(ids)
    return Assignment(content["root"], content["digest"], ids, content["paired"], content["block"])
