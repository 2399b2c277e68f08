"""Several ranks train as one process does that goes through a batch in as many parts.

The file is also the program that each of two processes runs.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rap.config import Config
from rap.train.launch import joined
from rap.train.loop import train
from tests.train.test_distributed import (
    CPU,
    ROUNDING,
    losses,
    run_ranks,
    some_config,
    some_scene,
    some_splat,
)


def parts_config(micro_batches: int) -> Config:
    """Live BatchNorm, and a term that compares the images of a batch: both see a part of it."""
    config = some_config("live")
    train = replace(config.train, feature_loss="vicreg", micro_batches=micro_batches, epochs=4)
    return replace(config, train=train)


def on_parts(out: Path) -> None:
    """What each of two processes does whose batch norm and features look at its part alone."""
    torch.set_num_threads(1)
    with joined("cpu", "advice"):
        train(some_scene(), some_splat(), parts_config(1), out / "two", CPU)


@pytest.mark.slow
def test_two_ranks_train_as_two_micro_batches_do(tmp_path: Path) -> None:
    """Also where BatchNorm is live and features are compared; one whole batch trains otherwise."""
    run_ranks(2, str(Path(__file__)), str(tmp_path))
    for name, num in (("parts", 2), ("whole", 1)):
        train(some_scene(), some_splat(), parts_config(num), tmp_path / name, CPU)
    two, parts = losses(tmp_path / "two"), losses(tmp_path / "parts")
    assert two.shape == (4, 4)
    torch.testing.assert_close(two, parts, rtol=ROUNDING, atol=0)
    assert not torch.allclose(two, losses(tmp_path / "whole"), rtol=100 * ROUNDING, atol=0)


if __name__ == "__main__":
    on_parts(Path(sys.argv[1]))
