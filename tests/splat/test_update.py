"""The lean step of Adam is torch's own, bit for bit."""

import pytest
import torch
from torch import nn

from rap.splat.update import update


def make(device: torch.device) -> tuple[list[nn.Parameter], torch.optim.Adam]:
    """Three parameters with rates of their own."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((20, 3), (20,), (4, 5, 3))
    parameters = [nn.Parameter(torch.randn(s, generator=generator).to(device)) for s in shapes]
    groups = [{"params": [p], "lr": 10.0**-i} for i, p in enumerate(parameters)]
    return parameters, torch.optim.Adam(groups, eps=1e-15, fused=True)


@pytest.mark.parametrize("num_steps", [1, 7])
def test_it_is_the_step_of_torch(device: torch.device, num_steps: int) -> None:
    """Values and moments, also while learning rates change and one parameter has no gradient."""
    ours, theirs = make(device), make(device)
    generator = torch.Generator().manual_seed(1)
    for step in range(num_steps):
        gradients = [torch.randn(p.shape, generator=generator).to(device) for p in ours[0]]
        for parameters, optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = 0.9**step
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            if step == 3:
                parameters[2].grad = None
        update(ours[1])
        theirs[1].step()
        assert all(parameter.grad is None for parameter in ours[0])
    for mine, expected in zip(ours[0], theirs[0], strict=True):
        assert torch.equal(mine, expected)
        stored, wanted = ours[1].state[mine], theirs[1].state[expected]
        assert all(torch.equal(stored[name], wanted[name]) for name in wanted)
