"""A process that is killed ends all of them with one line, and the run goes on afterwards."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import PATIENCE_S, holding, wait_until

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "image.height": 48, "image.num_workers": 0, "model.width": 0.25, "model.dim": 32,
    "model.heads": 2, "model.layers": 1, "model.feedforward": 32, "model.head_hidden": 32,
    "model.dropout": 0.1, "weights.view": 0, "train.epochs": 6, "train.batch_size": 16,
}  # fmt: skip


def command(run: Path, *options: str, program: Sequence[str] = ("-m", "rap")) -> list[str]:
    """Two processes of `rap train` on the room, started by torchrun."""
    launcher = [
        "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        "--log-dir", str(run.with_name("ranks")),  # else a folder stays among temporary files
    ]  # fmt: skip
    settings = [word for key, value in SETTINGS.items() for word in (f"--{key}", str(value))]
    training = [*program, "train", "room", "-o", str(run), "--device", "cpu", *settings]
    return [sys.executable, *launcher, *training, *options]


def process_of(rank: int, launcher: int) -> int:
    """The process that torchrun has started for a rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in map(int, children):
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return child
    raise AssertionError(f"rank {rank} is not among {children}")


def lose(rank: int, run: Path, number: int) -> str:
    """Send a signal to one rank after the second epoch; returns what was said on stderr."""
    held, released = run.with_name("held.py"), run.with_name("released")
    held.write_text(holding(1, released) + "from rap.cli import main\nraise SystemExit(main())\n")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launcher = subprocess.Popen(
        command(run, program=[str(held)]), cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    log = run / "log.jsonl"
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= 2, launcher)
    os.kill(process_of(rank, launcher.pid), number)
    released.touch()
    said = launcher.communicate(timeout=PATIENCE_S)[1]
    assert launcher.returncode != 0
    return said


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGKILL), (1, signal.SIGKILL),
                                              (1, signal.SIGTERM)])  # fmt: skip
def test_a_lost_process_ends_all_and_the_run_goes_on(
    tmp_path: Path, rank: int, number: int
) -> None:
    """One line says so and how to go on; resumed, the run ends as one that was never touched."""
    said = lose(rank, tmp_path / "cut", number)
    lines = [line for line in said.splitlines() if "rap: error:" in line]
    assert len(lines) == 1, said
    assert "another rank has ended" in lines[0]
    assert "--resume" in lines[0]
    state = torch.load(tmp_path / "cut" / "state.pt", weights_only=True)
    assert 1 <= state["progress"]["epochs_done"] < SETTINGS["train.epochs"]
    for words in (command(tmp_path / "cut", "--resume"), command(tmp_path / "whole")):
        subprocess.run(words, cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    a, b = (load_file(tmp_path / run / "last.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(a[key], b[key]) for key in a | b)
