"""Weights in half precision are made once in a step, however many parts its batch has."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rap.config import Config, LossWeights
from rap.model.halves import collect_gradients, half_weights
from rap.model.precision import precision_scope
from rap.model.regressor import build_regressor
from rap.train.batches import Batch
from rap.train.step import Learner, build_learner, loss_terms, micro_batches, optimise

CPU = torch.device("cpu")


def a_learner(tiny_config: Config, num_parts: int) -> tuple[Learner, Batch, Config]:
    """In bf16 on eight photographs, whose sums of gradients depend on the precision."""
    train = replace(
        tiny_config.train,
        precision="bf16",
        batch_size=8,
        micro_batches=num_parts,
        learning_rate=0.0,
    )
    config = replace(tiny_config, weights=LossWeights(view=0.0), train=train)
    generator = torch.Generator().manual_seed(0)
    poses = torch.eye(4).repeat(8, 1, 1)
    poses[:, :3, 3] = torch.randn(8, 3, generator=generator)
    batch = Batch(torch.rand(8, 3, 48, 64, generator=generator), poses, {"pose": 8})
    regressor = build_regressor(config.model, config.train.seed).train()
    return build_learner(regressor, None, config, CPU), batch, config


@pytest.mark.parametrize("num_parts", [1, 2, 4])
def test_each_weight_is_cast_once_in_a_step(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, num_parts: int
) -> None:
    """Nothing changes it before the optimiser does."""
    learner, batch, config = a_learner(tiny_config, num_parts)
    wanted = len(half_weights(learner.regressor, torch.bfloat16))
    copied: list[int] = []
    copy = torch._foreach_copy_

    def counted(copies: list[Tensor], tensors: list[Tensor]) -> None:
        copied.append(sum(one.dtype == torch.bfloat16 for one in copies))
        copy(copies, tensors)

    monkeypatch.setattr(torch, "_foreach_copy_", counted)
    optimise(learner, batch, config, 1.0)
    assert sum(copied) == wanted > 50


def test_gradients_are_those_of_weights_cast_for_each_part(tiny_config: Config) -> None:
    """Bit for bit: parts add up in the weights' own precision, not in half."""
    (learner, batch, config), (twin, _, _) = (a_learner(tiny_config, 4) for _ in range(2))
    optimise(learner, batch, config, 1.0)
    for part in micro_batches(batch, 4):
        halves = half_weights(twin.regressor, torch.bfloat16)
        with precision_scope("bf16", CPU):
            terms = loss_terms(twin, part, config, halves=halves)
        (terms["pose"] / 4).backward()
        collect_gradients(twin.regressor, halves)
    found, wanted = (dict(one.regressor.named_parameters()) for one in (learner, twin))
    assert found["trunk.stem.weight"].grad is not None
    for name, parameter in wanted.items():
        assert _same(found[name].grad, parameter.grad), name


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else a.equal(b)
