"""A step that the compiler has really compiled gives every weight the gradient of the plain one."""

import copy
import inspect
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace

import jaxtyping
import pytest
import torch

from rap.config import Config, LossWeights
from rap.model.regressor import Prediction, build_regressor
from rap.train.batches import Batch
from rap.train.execution import compiled_compare
from rap.train.step import Learner, build_learner, optimise

CPU = torch.device("cpu")
TOLERANCE = 2e-3
"""Of the norm of a weight's gradient; fused arithmetic rounds otherwise."""


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The real one, on code without shape checks; its own warnings are not about our code."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("inductor needs a C++ compiler, and there is neither g++ nor clang++")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(Prediction, "__init__", inspect.unwrap(Prediction.__init__))
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch._dynamo.reset()


def learner_for(config: Config) -> Learner:
    """A fresh one; its discriminator draws the same dropout each time."""
    regressor = build_regressor(config.model, seed=1)
    learner = build_learner(regressor, None, config, CPU)
    torch.manual_seed(5)
    return learner


def some_batch() -> Batch:
    """Four photographs, renderings and views."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(12, 3, 48, 64, generator=generator)
    poses = torch.eye(4).repeat(12, 1, 1)
    poses[:, :3, 3] = torch.randn(12, 3, generator=generator)
    return Batch(images, poses, {"pose": 4, "rendered": 4, "view": 4})


def wrong_gradients(learner: Learner, plain: Learner) -> list[str]:
    """Weights whose gradient is another one, by a share of it and of the usual one.

    A bias before a normalisation by the batch has none but rounding.
    """
    pairs = zip(learner.regressor.named_parameters(), plain.regressor.parameters(), strict=True)
    found = [(name, own.grad, other.grad) for (name, own), other in pairs]
    assert all((own is None) == (other is None) for _, own, other in found)
    given = [(name, own, other) for name, own, other in found
             if own is not None and other is not None]  # fmt: skip
    usual = float(torch.stack([other.square().mean().sqrt() for _, _, other in given]).median())
    return [
        name for name, own, other in given
        if float((own - other).norm())
        > TOLERANCE * (float(other.norm()) + usual * other.numel() ** 0.5)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_gradients_are_the_plain_ones(tiny_config: Config) -> None:
    """Of every weight, by inductor on the CPU; the compiler is seen to have made a graph.

    Of a short network: each block more is ten seconds of C++.
    """
    model = replace(tiny_config.model, layers=1, translation_level=3, rotation_level=2)
    config = replace(tiny_config, model=model, weights=LossWeights(1.0, 1.0, 1.0, 1.0, 0.7))
    plain, learner = learner_for(config), learner_for(config)
    torch.manual_seed(5)
    expected = optimise(plain, some_batch(), config, 1.0)
    learner.compare = compiled_compare()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(5)
    found = optimise(learner, some_batch(), config, 1.0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for name, want in expected.items():
        torch.testing.assert_close(found[name], want, rtol=1e-4, atol=1e-4)
    assert wrong_gradients(learner, plain) == []


@pytest.mark.slow
def test_a_gradient_that_is_off_is_told(tiny_config: Config) -> None:
    """By one percent, or missing, of one weight alone."""
    config = replace(tiny_config, weights=LossWeights(1.0, 1.0, 1.0, 1.0, 0.7))
    plain = learner_for(config)
    optimise(plain, some_batch(), config, 1.0)
    for factor in (1.01, 0.0):
        other = copy.copy(plain)
        other.regressor = build_regressor(config.model, seed=1)
        for weight, own in zip(other.regressor.parameters(), plain.regressor.parameters(),
                               strict=True):  # fmt: skip
            weight.grad = None if own.grad is None else own.grad.clone()
        changed = other.regressor.get_parameter("translation_branch.project.weight").grad
        assert changed is not None
        changed.mul_(factor)
        assert wrong_gradients(other, plain) == ["translation_branch.project.weight"]
