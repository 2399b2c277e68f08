"""BatchNorm and SiLU in one step that keeps its input alone for the backward pass.

One after the other they keep the normalised map as well, which is a product and a sum away from the
input: an eighth of all that a training step keeps. A compiler finds that by itself, so it is given
the plain form.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Map = Float[Tensor, "b c h w"]


def norm_silu(norm: nn.Module, x: Map) -> Map:
    """`F.silu(norm(x))`; a BatchNorm's output is computed again when its gradient is asked for.

    Raises torch's ValueError where a channel to be normalised by its own statistics has one value.
    """
    plain = not torch.is_grad_enabled() or torch.compiler.is_compiling()
    # The operator would write NaN into the running variance; the layer refuses.
    plain = plain or x.numel() == x.shape[1]
    if plain or not isinstance(norm, nn.BatchNorm2d) or norm.momentum is None:
        return F.silu(norm(x))
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return _NormSilu.apply(
        x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.training,
        norm.momentum, norm.eps,
    )  # fmt: skip


def live_norms(parts: Iterable[nn.Module]) -> list[nn.BatchNorm2d]:
    """BatchNorms that normalise by their batch and gather its statistics."""
    found = (module for part in parts for module in part.modules())
    return [norm for norm in found if isinstance(norm, nn.BatchNorm2d) and norm.training]


@contextmanager
def counted_at_once(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Count one more batch for every BatchNorm that learns; passes inside leave the counts alone.

    They are a number each, and adding one to it a kernel.
    """
    # Without momentum the pass itself needs the count.
    norms = [norm for norm in live_norms(parts) if norm.momentum is not None]
    counts = [norm.num_batches_tracked for norm in norms]
    if known := [count for count in counts if count is not None]:
        torch._foreach_add_(known, 1)
    for norm in norms:
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, count in zip(norms, counts, strict=True):
            norm.num_batches_tracked = count


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch gives it no name)
        x: Map,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Map:
        y, mean, inverse_std = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, training, momentum, eps
        )
        ctx.training, ctx.eps = training, eps
        ctx.save_for_backward(x, weight, bias, running_mean, running_var, mean, inverse_std)
        return F.silu(y)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # noqa: ANN401 (as torch has it)
        x, weight, bias, running_mean, running_var, mean, inverse_std = ctx.saved_tensors
        of, eps = (running_mean, running_var), ctx.eps
        if ctx.training:
            of, eps = (mean, inverse_std.pow(-2)), 0.0
        y, _, _ = torch.native_batch_norm(x, weight, bias, *of, False, 0.0, eps)
        grad = torch.ops.aten.silu_backward(grad_outputs[0], y)
        needed = list(ctx.needs_input_grad[:3])
        found = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, running_mean, running_var, mean, inverse_std, ctx.training, ctx.eps,
            needed,
        )  # fmt: skip
        return (*found, None, None, None, None, None)
