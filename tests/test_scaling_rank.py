"""Ranks of `bench_scaling`: none outlives its launcher."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RANK = """
import time
from benchmarks.scaling_rank import end_with_parent
end_with_parent()
print("ready", flush=True)
time.sleep(60)
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
        status = Path(f"/proc/{int(launcher.stdout.readline())}/status")
        assert status.exists()
        launcher.kill()
    for _ in range(100):
        if not status.exists() or "State:\tZ" in status.read_text(encoding="ascii"):
            return
        time.sleep(0.02)
    pytest.fail("the rank is still alive")
