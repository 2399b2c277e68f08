"""What changes in the course of a run, as plain functions of step or epoch: resuming is exact."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rap.config import Config, Schedule

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


def image_height(config: Config, epoch: int) -> int:
    """Height of the images that an epoch trains on: the smaller one in the first share of a run."""
    train = config.train
    small = epoch < num_small_epochs(config)
    return train.low_resolution_height if small else config.image.height


def num_small_epochs(config: Config) -> int:
    """How many epochs, the first ones, train on smaller images."""
    return round(config.train.low_resolution_share * config.train.epochs)


def trunk_learns(config: Config, epoch: int) -> bool:
    """Whether an epoch trains the trunk, too."""
    return epoch < num_learning_epochs(config)


def num_learning_epochs(config: Config) -> int:
    """How many epochs, the first ones, train the trunk, too."""
    return round(config.train.freeze_after * config.train.epochs)


def view_reach(config: Config, epoch: int) -> float:
    """Factor on how far views lie from their photographs in an epoch.

    From `views.curriculum_start` evenly to 1 over a share of the run.
    """
    start, over = config.views.curriculum_start, config.views.curriculum_share * config.train.epochs
    return 1.0 if epoch >= over else start + (1 - start) * epoch / over


def average_weight(decay: float, step: int) -> float:
    """How far the average moves at a step: 1 − d; early on d = (1 + step) / (10 + step).

    So it forgets the random start.
    """
    return 1 - min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, weight: Float[Tensor, ""]) -> None:
    """Move `average` towards `model`: avg += weight·(model − avg), in a handful of kernels.

    The weight lies on the device, so that a captured step can be told another one. Buffers are
    averaged too (BatchNorm statistics belong to the weights); integers are copied.
    """
    averages, values = _tensors(average, floating=True), _tensors(model, floating=True)
    change = torch._foreach_sub(values, averages)
    torch._foreach_mul_(change, weight)
    torch._foreach_add_(averages, change)
    if counts := _tensors(average, floating=False):
        torch._foreach_copy_(counts, _tensors(model, floating=False))


def _tensors(module: nn.Module, floating: bool) -> list[Tensor]:
    tensors = [*module.parameters(), *module.buffers()]
    return [tensor for tensor in tensors if tensor.is_floating_point() == floating]
