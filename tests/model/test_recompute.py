"""Activation checkpointing: less is kept, and nothing else changes."""

from dataclasses import replace

import pytest
import torch

from rap.config import BatchNorm, ModelConfig
from rap.model.recompute import cheap_again
from rap.model.regressor import Regressor, build_regressor

SMALL = ModelConfig(
    width=0.25, dim=32, heads=2, layers=3, feedforward=32, head_hidden=32, feature_dim=16,
    dropout=0.1, drop_connect=0.2,
)  # fmt: skip


def gradients(regressor: Regressor, device: torch.device) -> tuple[list[torch.Tensor], int]:
    """Gradients of a sum of everything predicted, and the bytes kept for them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 64, 64, generator=generator).to(device)
    regressor.train()
    torch.manual_seed(3)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = regressor(images)
    (found.translation.sum() + found.rotation.square().sum()).backward()
    parameters = [p.grad for p in regressor.parameters() if p.grad is not None]
    return [*parameters, *(b.clone() for b in regressor.buffers())], sum(kept.values())


@pytest.mark.parametrize("batch_norm", ["live", "calibrated"])
def test_gradients_and_statistics_are_the_same_in_less_memory(
    device: torch.device, batch_norm: BatchNorm
) -> None:
    """With dropout and stochastic depth; running statistics move once, not twice."""
    config = replace(SMALL, batch_norm=batch_norm)
    plain, again = (build_regressor(config, seed=0).to(device) for _ in range(2))
    again.recompute_activations(True)
    (expected, much), (found, less) = gradients(plain, device), gradients(again, device)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)
    assert less < 0.5 * much


def test_nothing_is_computed_again_for_a_prediction() -> None:
    """In evaluation mode the switch has no effect."""
    regressor = build_regressor(SMALL, seed=0).eval()
    regressor.recompute_activations(True)
    calls: list[int] = []
    regressor.trunk.get_submodule("blocks.0").register_forward_hook(lambda *_: calls.append(1))
    regressor(torch.rand(1, 3, 64, 64)).translation.sum().backward()
    assert calls == [1]


def test_what_is_cheap_is_computed_again(device: torch.device) -> None:
    """A product before a convolution is not kept, and the convolution itself runs once."""
    conv = torch.nn.Conv2d(8, 4, 1).to(device)
    calls: list[int] = []
    conv.register_forward_hook(lambda *_: calls.append(1))
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        x, gate = torch.randn(2, 8, 16, 16).to(device), torch.rand(2, 8, 1, 1).to(device)
        inputs = x.requires_grad_(), gate.requires_grad_()
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return conv(a * b)

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = cheap_again(product, *inputs) if again else product(*inputs)
        conv.zero_grad()
        y.square().sum().backward()
        assert conv.weight.grad is not None
        found.append([y, x.grad, gate.grad, conv.weight.grad.clone()])
    for got, want in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(got, want)
    assert len(calls) == 2  # each way once: the second pass ends before the convolution
