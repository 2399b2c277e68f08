"""Learning rates and weight averages as plain functions of the step, so that resuming is exact."""

import math

import torch
from torch import Tensor, nn

from rap.config import Schedule

WARMUP_SHARE = 0.1
FINAL_FACTOR = 1e-3


def learning_rate_factor(schedule: Schedule, step: int, num_steps: int) -> float:
    """Factor on the peak learning rate at a step.

    `one_cycle`: linear warm-up over a tenth of the run, then a cosine down to a thousandth (after
    Smith & Topin 2019). `constant` and `plateau` are 1; the latter is lowered by its own rule.
    """
    if schedule != "one_cycle":
        return 1.0
    warmup = max(1, round(WARMUP_SHARE * num_steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return FINAL_FACTOR + (1 - FINAL_FACTOR) * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move `average` towards `model`: avg += (1 − d)·(model − avg).

    Early on d = (1 + step) / (10 + step) forgets the random start. Buffers are averaged too
    (BatchNorm statistics belong to the weights); integers are copied.
    """
    decay = min(decay, (1 + step) / (10 + step))
    averages, values = [], []
    for mean, value in zip(_tensors(average), _tensors(model), strict=True):
        if mean.is_floating_point():
            averages.append(mean)
            values.append(value)
        else:
            mean.copy_(value)
    torch._foreach_lerp_(averages, values, 1 - decay)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
