"""Ranks of `bench_scaling`: none outlives its launcher."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import runs, wait_until

ROOT = Path(__file__).resolve().parents[1]
RANK = """
import time
from benchmarks.scaling_rank import end_with_parent
end_with_parent()
print("ready", flush=True)
time.sleep(9999)
"""
LAUNCHER = """
import subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True,
                        stdout=subprocess.PIPE, text=True)
rank.stdout.readline()
print(rank.pid, flush=True)
rank.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is Linux's signal")
def test_rank_ends_with_a_launcher_that_is_killed() -> None:
    """torch gives each rank a session of its own, which whoever stops us does not reach."""
    command = [sys.executable, "-c", LAUNCHER, RANK]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        rank = int(launcher.stdout.readline())
        assert runs(rank)
        launcher.kill()
    wait_until(lambda: not runs(rank))
