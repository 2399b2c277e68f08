"""A tiny scene, splat and configuration on which a training step takes milliseconds."""

import pytest
import torch

from rap.config import Config, ImageConfig, LossWeights, ModelConfig, TrainConfig, ViewsConfig
from rap.data.room import RoomSpec, make
from rap.scene import Scene
from rap.splat.gaussians import Gaussians


@pytest.fixture(scope="session")
def tiny_scene() -> Scene:
    """Ten small photographs of the room and two test frames."""
    return make(RoomSpec(seed=3, num_train=10, num_test=2, width=64, height=48))


@pytest.fixture(scope="session")
def tiny_splat(tiny_scene: Scene) -> Gaussians:
    """One opaque blob per surface point: crude, but seen from everywhere."""
    points = tiny_scene.points
    assert points is not None
    num = 300
    xyz = points.xyz[:num]
    quats = torch.zeros(num, 4)
    quats[:, 0] = 1
    colour = (points.rgb[:num].float() / 255 - 0.5) / 0.28209479177387814
    return Gaussians(
        means=xyz,
        quats=quats,
        log_scales=torch.full((num, 3), -2.3),
        opacity_logits=torch.full((num,), 3.0),
        sh=colour[:, None],
    )


@pytest.fixture
def tiny_config() -> Config:
    """A narrow two-layer network at 48×64, without dropout, so that steps repeat exactly."""
    return Config(
        image=ImageConfig(height=48, num_workers=0),
        model=ModelConfig(
            width=0.25, dim=32, heads=2, layers=2, feedforward=32, head_hidden=32,
            dropout=0.0, drop_connect=0.0, feature_dim=16,
        ),
        views=ViewsConfig(min_coverage=0.0),
        weights=LossWeights(),
        train=TrainConfig(epochs=3, batch_size=4, learning_rate=1e-3, validation_fraction=0.2),
    )  # fmt: skip
