"""SIGKILL at any moment: the run resumes and ends bit-identical to one that was never touched."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import holding, wait_until

ROOT = Path(__file__).parents[2]
EPOCHS = 8
TRAIN = f"""
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from rap.config import Config, ImageConfig, LossWeights, ModelConfig, TrainConfig
from rap.data.room import RoomSpec, make
from rap.train.loop import train

scene = make(RoomSpec(seed=3, num_train=10, num_test=2, width=64, height=48))
config = Config(
    image=ImageConfig(height=48, num_workers=0),
    model=ModelConfig(width=0.25, dim=32, heads=2, layers=1, feedforward=32, head_hidden=32),
    weights=LossWeights(view=0.0),
    train=TrainConfig(
        epochs={EPOCHS}, batch_size=2, learning_rate=1e-3, ema_decay=0.9, augment=1.0
    ),
)
train(scene, None, config, Path(sys.argv[1]), torch.device("cpu"), resume="--resume" in sys.argv)
"""


def command(run: Path, *options: str) -> list[str]:
    """The training as a process of its own."""
    return [sys.executable, "-c", TRAIN, str(run), *options]


def logged_epochs(run: Path) -> list[int]:
    """The epochs of all whole lines of the log."""
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line)["epoch"] for line in lines if line.endswith("\n")]


def kill_after(run: Path, num_epochs: int) -> int:
    """Start the training, kill it once the log has so many epochs; returns how many it has then."""
    # never to its end, however late it is killed
    endless = [sys.executable, "-c", holding(EPOCHS - 1, run / "never") + TRAIN, str(run)]
    process = subprocess.Popen(endless, cwd=ROOT)
    log = run / "log.jsonl"
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= num_epochs, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return len(logged_epochs(run))


@pytest.mark.slow
def test_a_killed_run_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Killed twice, at moments that nobody chose, it loses at most the running epoch each time."""
    subprocess.run(command(tmp_path / "whole"), cwd=ROOT, check=True)
    for num_epochs in (1, 4):
        run = tmp_path / f"cut{num_epochs}"
        num_logged = kill_after(run, num_epochs)
        # No finished epoch is lost: each that is logged is in the state.
        state = torch.load(run / "state.pt", weights_only=True)
        assert state["progress"]["epochs_done"] >= num_logged >= num_epochs
        subprocess.run(command(run, "--resume"), cwd=ROOT, check=True)
        for name in ("best.safetensors", "last.safetensors"):
            a, b = load_file(tmp_path / "whole" / name), load_file(run / name)
            assert all(torch.equal(a[key], b[key]) for key in a | b)
        assert logged_epochs(run) == list(range(EPOCHS))
