"""Which benchmark a process is at: told while it runs, and kept in its log."""

import os
import sys
from pathlib import Path

from benchmarks.harness.children import run_process
from benchmarks.harness.fresh import Fresh
from benchmarks.harness.progress import Follower
from tests.harness.toy_trees import make_toy_tree
from tests.processes import PATIENCE_S

BEGINS = """
import pathlib, time
print("noise\\n@ 0.1 s: one", flush=True)
while not pathlib.Path("heard").exists():
    time.sleep(0.02)
"""


def test_what_runs_is_told_before_it_ends(tmp_path: Path) -> None:
    """Or a run that is cut off would tell nothing; this process waits until it was heard."""
    told = []

    def tell(text: str) -> None:
        told.append(text)
        (tmp_path / "heard").touch()

    log = tmp_path / "log"
    command = [sys.executable, "-c", BEGINS]
    code, text = run_process(command, tmp_path, dict(os.environ), log, PATIENCE_S, tell)
    assert (code, told, text) == (0, ["0.1 s: one"], "noise\n@ 0.1 s: one\n")


def test_line_that_is_half_written_waits(tmp_path: Path) -> None:
    """And each is told once, whatever stands between them."""
    told: list[str] = []
    with (tmp_path / "log").open("w+b", buffering=0) as log:
        follower = Follower(log.fileno(), told.append)
        for part in (b"@ 1.0 s: a\n@ 2", b".0 s: b\n.", b"\nx @ y\n"):
            log.write(part)
            follower.look()
    assert told == ["1.0 s: a", "2.0 s: b"]


def test_fresh_process_tells_each_benchmark(tmp_path: Path) -> None:
    """As it begins, with the seconds so far; the log keeps it."""
    toy = make_toy_tree(tmp_path / "toy")
    told: list[str] = []
    fresh = Fresh(toy.root, ("--device", "cpu"), told.append)
    session, _, problem = fresh.session(["benchmarks"])
    assert session is not None, problem
    assert [text.split(" s: ")[1] for text in told] == ["spin", "steady"]
    assert all(float(text.split(" s: ")[0]) < 600 for text in told)
    assert f"@ {told[0]}\n" in fresh.log.read_text(encoding="utf-8")
