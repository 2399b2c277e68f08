"""What a command does when nobody reads what it says any more."""

import os
import signal
import subprocess
import sys
from pathlib import Path


def test_whoever_reads_the_output_may_stop() -> None:
    """A closed pipe ends a command in silence, as it ends any other one."""
    for words in (["--help"], ["train", "--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "-m", "rap", *words], stdout=writing, stderr=subprocess.PIPE,
            text=True, check=False, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        os.close(writing)
        assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
