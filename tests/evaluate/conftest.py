"""A few random photographs with poses, and a network of a few thousand weights."""

import numpy as np
import pytest
import torch

from rap.camera import Camera
from rap.config import ModelConfig
from rap.geometry import random_rotations_within, rigid
from rap.model.checkpoint import Checkpoint
from rap.model.regressor import build_regressor
from rap.scene import Frame, Scene

CAMERA = Camera(28.0, 28.0, 20.0, 15.0, 40, 30)
TINY = ModelConfig(width=0.1, dim=8, heads=2, layers=1, feedforward=8, head_hidden=8, feature_dim=4)


def _frames(sequence: int, num: int) -> tuple[Frame, ...]:
    generator = torch.Generator().manual_seed(sequence)
    pixels = np.random.default_rng(sequence)
    poses = rigid(
        random_rotations_within(num, 40.0, generator), torch.randn(num, 3, generator=generator)
    ).double()
    return tuple(
        Frame(
            f"seq-{sequence:02d}/frame-{index:06d}",
            poses[index],
            pixels.integers(0, 256, (CAMERA.height, CAMERA.width, 3), dtype=np.uint8),
        )
        for index in range(num)
    )


@pytest.fixture
def scene() -> Scene:
    """Five training and four test frames, kept in memory."""
    return Scene("noise", "random pixels", CAMERA, _frames(1, 5), _frames(2, 4))


@pytest.fixture
def checkpoint() -> Checkpoint:
    """Untrained weights; a spread of outputs, so that no two images get the same pose."""
    regressor = build_regressor(TINY, seed=3)
    for branch in (regressor.translation_branch, regressor.rotation_branch):
        torch.nn.init.normal_(branch.head_out.weight, generator=torch.Generator().manual_seed(0))
    camera = CAMERA.resized(32, 24)
    return Checkpoint(regressor.eval(), camera, {"scene": "random pixels", "seed": "3"})
