"""Weights cast together are what autocast takes, and gradients reach the network's own."""

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from rap.config import ModelConfig
from rap.model.halves import collect_gradients, half_weights
from rap.model.regressor import Regressor, build_regressor

SMALL = ModelConfig(
    width=0.25, dim=32, heads=2, layers=2, feedforward=32, head_hidden=32, feature_dim=16,
    dropout=0.0, drop_connect=0.0,
)  # fmt: skip


def gradients(regressor: Regressor, device: torch.device, together: bool) -> list[Tensor | None]:
    """Of all that is predicted under autocast, which casts by itself or finds all cast."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 48, 64, generator=generator).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        weights = half_weights(regressor, torch.bfloat16) if together else {}
        found = functional_call(regressor, weights, (images,), {"with_features": True})
    assert found.features is not None
    loss = found.translation.square().sum() + found.rotation[:, 0].sum()
    (loss + found.features.square().mean()).backward()
    collect_gradients(regressor, weights)
    return [parameter.grad for parameter in regressor.parameters()]


def test_gradients_are_those_of_autocast(device: torch.device) -> None:
    """Of every weight, in its own precision and layout."""
    one, other = (build_regressor(SMALL, seed=0).to(device).train() for _ in range(2))
    wanted, found = gradients(one, device, False), gradients(other, device, True)
    for (name, parameter), got, want in zip(other.named_parameters(), found, wanted, strict=True):
        assert (got is None) == (want is None), name
        if got is not None and want is not None:
            assert (got.dtype, got.stride()) == (parameter.dtype, parameter.stride())
            torch.testing.assert_close(got, want, rtol=2e-2, atol=1e-3 * float(want.abs().max()))


def test_on_a_cpu_the_bits_are_those_of_autocast() -> None:
    """With biases that are not zero, too. A weight of several uses adds its gradients in half."""
    networks = [build_regressor(SMALL, seed=0).train() for _ in range(2)]
    for network in networks:
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.1)
    wanted, found = (
        gradients(network, torch.device("cpu"), together)
        for network, together in zip(networks, (False, True), strict=True)
    )
    names = [name for name, _ in networks[0].named_parameters()]
    differ = [
        name for name, got, want in zip(names, found, wanted, strict=True)
        if got is not None and want is not None and not got.equal(want)
    ]  # fmt: skip
    assert all(name.endswith("layers.1.qkv.weight") for name in differ), differ


class Casts(TorchDispatchMode):
    """Counts copies to another precision."""

    num = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        self.num += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def test_autocast_casts_no_weight_again() -> None:
    """Every weight's own cast is gone."""
    regressor = build_regressor(SMALL, seed=0).train()
    halves, counts = half_weights(regressor, torch.bfloat16), []
    for weights in ({}, halves):
        with torch.autocast("cpu", torch.bfloat16), Casts() as casts:
            functional_call(
                regressor, weights, (torch.rand(2, 3, 48, 64),), {"with_features": True}
            )
        counts.append(casts.num)
    assert counts[0] - counts[1] >= len(halves)


@pytest.mark.parametrize("name", ["head_hidden", "head_out", "norm1", "positions", "qkv.bias"])
def test_what_stays_in_full_precision_is_left_out(name: str) -> None:
    """Pose heads, norms and learned vectors; everything else that multiplies is there."""
    found = half_weights(build_regressor(SMALL, seed=0), torch.bfloat16)
    assert not [key for key in found if name in key]
    assert {"trunk.stem.weight", "rotation_branch.project.bias"} <= found.keys()
    assert "translation_branch.encoder.layers.1.qkv.weight" in found


def test_a_weight_that_is_not_used_has_no_gradient() -> None:
    """So an optimiser leaves it alone, as without."""
    regressor = build_regressor(SMALL, seed=0).train()
    weights = half_weights(regressor, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = functional_call(regressor, weights, (torch.rand(2, 3, 48, 64),))
    found.translation.sum().backward()
    collect_gradients(regressor, weights)
    assert regressor.get_parameter("adaptation.0.0.weight").grad is None
    assert regressor.get_parameter("trunk.stem.weight").grad is not None


def test_gradients_add_up() -> None:
    """As over micro-batches, of weights cast once; what is there stays where it is in memory."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 2))
    weight = network.get_parameter("0.weight")
    halves = half_weights(network, torch.bfloat16)
    for times in (1, 2, 3):
        halves["0.weight"].sum().backward()
        before = weight.grad
        collect_gradients(network, halves)
        assert weight.grad is not None
        assert weight.grad.equal(torch.full_like(weight, times))
        assert before is None or before is weight.grad
        assert halves["0.weight"].grad is None
