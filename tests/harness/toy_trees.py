"""A tiny repository for the tests of the A/B: a package, benchmarks of microseconds, a history."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.judging import CI_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = '''
"""Toy work moves the clock that the harness reads, a little differently in each process."""

import os
import random
from benchmarks.harness import clock, faults

pytest_plugins = ["benchmarks.harness.plugin"]
NOISE = random.Random(os.getpid()).uniform(0.998, 1.002)

class VirtualTime:
    now = 0.0
    def perf_counter(self):
        VirtualTime.now += 1e-6
        return VirtualTime.now
    process_time = perf_counter
    def spend(self, seconds):
        VirtualTime.now += seconds * NOISE

clock.time = faults.time = TIME = VirtualTime()
'''
BENCHMARKS = '''
"""Two benchmarks: the package says how long the first takes."""

import rap
from conftest import TIME

def bench_spin(measure):
    measure(lambda: TIME.spend(rap.COST_S), rounds=3)

def bench_steady(measure):
    measure(lambda: TIME.spend(0.01), rounds=3)
'''
POLICY = """
[metric.time_s]
family = "time"
better = "lower"
relative = 0.25
confirm = 0.15

[[benchmark]]
name = "*"
owner = "toys"
metrics = ["time_s"]
"""
PACKAGE = 'COST_S = 0.005\n"""What the toy work takes."""\n'
FASTER = "diff --git a/rap/__init__.py b/rap/__init__.py\n" + (
    "--- a/rap/__init__.py\n+++ b/rap/__init__.py\n@@ -1,2 +1,2 @@\n"
    '-COST_S = 0.005\n+COST_S = 0.004\n """What the toy work takes."""\n'
)


@dataclass(frozen=True)
class ToyTree:
    """A checkout of the toy repository."""

    root: Path

    def write(self, name: str, text: str) -> None:
        """Change a file, uncommitted."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def cost(self, seconds: float) -> None:
        """Make the package this slow."""
        self.write("rap/__init__.py", PACKAGE.replace("0.005", str(seconds)))

    def commit(self, message: str) -> str:
        """Commit everything; the commit."""
        self.git("add", "-A")
        self.git("-c", "user.name=toy", "-c", "user.email=toy@toy", "commit", "-qm", message)
        return self.git("rev-parse", "--short=12", "HEAD")

    def git(self, *arguments: str) -> str:
        """Run git here."""
        command = ["git", "-C", str(self.root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def make_toy_tree(root: Path, *, harness: bool = True, policy: str = POLICY) -> ToyTree:
    """A committed toy repository, with our harness in it if processes are to be started."""
    toy = ToyTree(root)
    toy.write("rap/__init__.py", PACKAGE)
    toy.write("conftest.py", CONFTEST)
    toy.write("benchmarks/__init__.py", "")
    toy.write("benchmarks/bench_toy.py", BENCHMARKS)
    toy.write("benchmarks/policy.toml", policy)
    toy.write(".gitignore", "__pycache__/\n.benchmarks/\n")
    shutil.copy(ROOT / "pyproject.toml", root)
    if harness:
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ("harness", "__main__.py"):
            source, target = ROOT / "benchmarks" / name, root / "benchmarks" / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=ignored)
            else:
                shutil.copy(source, target)
    toy.git("init", "-q")
    toy.commit("first")
    return toy


def clean_environment() -> dict[str, str]:
    """Our environment without what would change a child's tests."""
    unset = (*CI_VARIABLES, "PYTEST_ADDOPTS", "BENCHMARK_FAULT", "BENCHMARK_COMMIT")
    return {name: value for name, value in os.environ.items() if name not in unset}
