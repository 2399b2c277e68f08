"""Adam's step without the host's share of it.

A fit has a dozen parameters, each with its own learning rate, so each is a group of its own, and
torch.optim spends more time in Python on these groups than the GPU on the arithmetic.
"""

import torch


@torch.no_grad()
def update(optimizer: torch.optim.Adam) -> None:
    """What `optimizer.step()` and `zero_grad()` do, to the bit, for groups of a single parameter.

    Without weight decay and with torch's other defaults. A parameter without a gradient stays.
    """
    groups = [group for group in optimizer.param_groups if group["params"][0].grad is not None]
    states = [_state(optimizer, group["params"][0]) for group in groups]
    torch._foreach_add_([state["step"] for state in states], 1)
    for group, state in zip(groups, states, strict=True):
        beta1, beta2 = group["betas"]
        parameter = group["params"][0]
        torch._fused_adam_(
            [parameter], [parameter.grad], [state["exp_avg"]], [state["exp_avg_sq"]],
            [], [state["step"]], lr=group["lr"], beta1=beta1, beta2=beta2, weight_decay=0.0,
            eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip
        parameter.grad = None


def _state(optimizer: torch.optim.Adam, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
    """The moments of a parameter, made in its first step as torch.optim does."""
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state
