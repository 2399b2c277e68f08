"""Activation checkpointing: keep a module's input only, and run it again in the backward pass.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. Gradients are the same; memory
is paid for with about a third more time.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rap.model.activation import live_norms


def recomputed(module: nn.Module, *inputs: Any, random: bool) -> Tensor:  # noqa: ANN401 (a module's)
    """A module's output, whose activations will be computed again when they are needed.

    `random`: it draws numbers, and must draw the same ones again. Running statistics of BatchNorm
    are updated once, not twice.
    """
    if torch.compiler.is_compiling():
        # The compiler repeats arithmetic only, never an update of statistics.
        return checkpoint(module, *inputs, use_reentrant=False, preserve_rng_state=random)
    contexts = partial(_contexts, module)
    return checkpoint(
        module, *inputs, use_reentrant=False, preserve_rng_state=random, context_fn=contexts
    )


def cheap_again(function: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """What a function gives, keeping its inputs alone: for arithmetic before one last operator.

    The second pass ends before that operator, whose inputs are all that it is for. Weights are
    inputs, too, or autocast would cast them again. Nothing may be drawn at random. A compiler finds
    such maps by itself, so it is given the plain form.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def _contexts(
    module: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_left_alone(module)


@contextmanager
def _statistics_left_alone(module: nn.Module) -> Iterator[None]:
    """The batch's own statistics still normalise; the running ones don't move."""
    norms = live_norms([module])
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
