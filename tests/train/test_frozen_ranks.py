"""What several ranks average in a step is what the step has changed."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rap.config import Config, LossWeights
from rap.model.regressor import build_regressor
from rap.train.batches import Batch
from rap.train.distributed import Ranks
from rap.train.inputs import trunk_features
from rap.train.step import build_learner, optimise

CPU = torch.device("cpu")


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_that_nobody_gathers_are_not_averaged(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, frozen: bool, aligned: bool
) -> None:
    """A frozen trunk's, and those of layers of terms that are off: a third of thrice is not one."""
    config = replace(
        tiny_config,
        model=replace(tiny_config.model, rotation_level=4),
        weights=LossWeights(pose=1.0, rendered=1.0, view=0.0, feature=float(aligned)),
    )
    learner = build_learner(build_regressor(config.model, 3).train(), None, config, CPU)
    learner.ranks = Ranks(0, 3)
    averaged: list[Tensor] = []

    def noted(_: Ranks, tensors: Sequence[Tensor]) -> None:
        averaged.extend(tensors)

    monkeypatch.setattr(Ranks, "average", noted)
    before = {name: value.clone() for name, value in learner.regressor.named_buffers()}
    images = torch.rand(8, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    if frozen:
        images = trunk_features(learner.regressor, images, config)
    poses = torch.eye(4).repeat(8, 1, 1)
    optimise(learner, Batch(images, poses, {"pose": 4, "rendered": 4}, frozen), config, 1.0)
    changed = {
        name for name, value in learner.regressor.named_buffers()
        if value.is_floating_point() and not value.equal(before[name])
    }  # fmt: skip
    # By identity: tensors compare element by element.
    found = {
        name for name, value in learner.regressor.named_buffers()
        if any(value is one for one in averaged)
    }  # fmt: skip
    assert found == changed
    assert any(name.startswith("trunk.") for name in found) == (not frozen)
    assert any(name.startswith("adaptation.") for name in found) == aligned
    gradients = [p.grad for p in learner.regressor.parameters() if p.grad is not None]
    assert len(gradients) + len(found) == len(averaged)
