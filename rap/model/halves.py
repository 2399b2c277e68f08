"""All weights that autocast would cast, cast at once.

Autocast casts each weight where it is used, and its gradient back: some 170 small kernels forward
and as many backward. Here they are a handful, and the values are the same, but that gradients of a
weight that is used several times are added in half precision.
"""

import re

import torch
from torch import Tensor, nn

_STAYS_FULL = re.compile(r"(^|\.)(head[^.]*\.[^.]+|qkv\.bias)$")
"""Pose heads, and what is added to projected positions in fp32 before both are cast."""


@torch.no_grad()
def half_weights(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights of convolutions and linear layers in half precision, for `functional_call`.

    They are leaves: `collect_gradients` brings their gradients to the network's own weights. What
    stays fp32 under autocast (pose heads, biases of queries, keys and values) is left out, and so
    are modules of other kinds, which may do more with a weight.
    """
    found = {
        f"{path}.{name}": parameter
        for path, module in network.named_modules()
        if type(module) in (nn.Conv2d, nn.Linear)
        for name, parameter in module.named_parameters(recurse=False)
        if not _STAYS_FULL.search(f"{path}.{name}")
    }
    halves = _cast(list(found.values()), dtype)
    for half, own in zip(halves, found.values(), strict=True):
        half.requires_grad_(own.requires_grad)
    return dict(zip(found, halves, strict=True))


@torch.no_grad()
def collect_gradients(network: nn.Module, halves: dict[str, Tensor]) -> None:
    """Move the gradients of a network's half weights to its own, in their precision.

    They are added to what is there. The half weights are left without, ready for another backward
    pass, whose gradients are then not added up in half precision.
    """
    with_gradient = {name: half.grad for name, half in halves.items() if half.grad is not None}
    owners = [network.get_parameter(name) for name in with_gradient]
    added: tuple[list[Tensor], list[Tensor]] = ([], [])
    for own, gradient in zip(owners, _cast(list(with_gradient.values())), strict=True):
        if own.grad is None:
            own.grad = gradient
        else:
            added[0].append(own.grad)
            added[1].append(gradient)
    if added[0]:
        torch._foreach_add_(*added)
    for name in with_gradient:
        halves[name].grad = None


def _cast(tensors: list[Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, tensors)
    return copies
