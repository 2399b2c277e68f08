"""How many Gaussians, and where: the classic rules of 3D Gaussian splatting.

Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering", SIGGRAPH 2023, section
5. Where the picture wants a Gaussian to move, there are too few: small ones are cloned, large ones
split. Faint and huge ones are removed, and now and then all are made faint, so that only those that
the photographs need come back. Unlike the original, the number has a bound: when it is reached,
those with the largest gradients go first.

The functions change `parameters` and the optimiser's state in place, as in `density`.
"""

from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rap import geometry
from rap.camera import Camera
from rap.splat.density import Parameters, take

GROW_GRADIENT = 2e-4
"""Mean length of the loss's gradient by screen position above which a Gaussian is too few.

Screen positions run from -1 to 1 over the picture, so that the size of a picture does not count.
"""
LARGE = 0.01
"""Gaussians larger than this share of the scene's size are split, smaller ones cloned."""
HUGE = 0.1
"""After the first reset of the opacities, Gaussians larger than this share are removed."""
MIN_OPACITY = 0.005
"""Gaussians below this are removed."""
RESET_OPACITY = 2 * MIN_OPACITY
_RESETS = 10
_REFINEMENTS_PER_RESET = 3
_SHRINK = 1.6
_PIECES = 2


@dataclass
class Statistics:
    """What the views since the last refinement said about every Gaussian."""

    gradient: Float[Tensor, " n"]
    """Sum over views of the gradient's length."""
    count: Float[Tensor, " n"]
    """Views in which the Gaussian had a gradient."""


def no_statistics(parameters: Parameters) -> Statistics:
    """Statistics before any view."""
    zeros = torch.zeros_like(parameters["opacity_logits"], requires_grad=False)
    return Statistics(zeros, zeros.clone())


@torch.no_grad()
def observe(statistics: Statistics, gradient_px: Float[Tensor, "v n 2"], camera: Camera) -> None:
    """Add the gradients of a loss, the mean over v views, by the projected means in pixels.

    A view counts for the Gaussians that it moves at all. The original counts all whose footprint
    is in the picture, also those hidden behind others, which only lowers the mean of those.
    """
    x, y = gradient_px.unbind(-1)
    half = len(gradient_px) / 2
    length = torch.hypot(x * (half * camera.width), y * (half * camera.height))
    statistics.gradient += length.sum(0)
    statistics.count += (length > 0).sum(0)


@torch.no_grad()
def refine(
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    statistics: Statistics,
    size_m: float,
    max_gaussians: int,
    generator: torch.Generator,
    *,
    remove_huge: bool,
) -> Statistics:
    """Remove faint (and huge) Gaussians, then clone and split; returns fresh statistics.

    `size_m` is that of the scene. The number never passes `max_gaussians`, also not in between.
    """
    largest_m = parameters["log_scales"].amax(1).exp()
    kept = parameters["opacity_logits"].sigmoid() >= MIN_OPACITY
    if remove_huge:
        kept &= largest_m <= HUGE * size_m
    if not kept.any():
        # a fit that has lost everything cannot go on; the loss will say what is wrong with it
        kept.fill_(True)
    gradient = statistics.gradient / statistics.count.clamp(min=1)
    wanted = kept & (gradient > GROW_GRADIENT)
    num_kept, num_wanted = torch.stack([kept.sum(), wanted.sum()]).tolist()
    num_new = min(num_wanted, max(max_gaussians - num_kept, 0))
    chosen = torch.where(wanted, gradient, -1).topk(num_new).indices
    is_large = largest_m[chosen] > LARGE * size_m
    _clone_and_split(parameters, optimizer, kept, chosen[~is_large], chosen[is_large], generator)
    return no_statistics(parameters)


def resets_at(iteration: int, iterations: int, refine_every: int) -> bool:
    """Whether the opacities are reset after this step: after every tenth part of the first half.

    As in the original (every 3,000 steps of 30,000, up to 15,000), but a short fit gets time to
    recover in between.
    """
    return 0 < iteration <= iterations / 2 and iteration % _spacing(iterations, refine_every) == 0


def was_reset(iteration: int, iterations: int, refine_every: int) -> bool:
    """Whether the opacities have been reset before this step."""
    return iteration > _spacing(iterations, refine_every)


@torch.no_grad()
def reset_opacity(parameters: Parameters, optimizer: torch.optim.Optimizer) -> None:
    """Make all Gaussians at least as faint as `RESET_OPACITY`, and forget where they tended to."""
    logits = parameters["opacity_logits"]
    logits.clamp_(max=log(RESET_OPACITY / (1 - RESET_OPACITY)))
    for value in optimizer.state.get(logits, {}).values():
        if value.shape == logits.shape:
            value.zero_()


def _spacing(iterations: int, refine_every: int) -> int:
    return max(iterations // _RESETS, _REFINEMENTS_PER_RESET * refine_every)


def _clone_and_split(
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    kept: Bool[Tensor, " n"],
    cloned: Int64[Tensor, " c"],
    split: Int64[Tensor, " s"],
    generator: torch.Generator,
) -> None:
    """Kept ones without the split, clones, and two smaller pieces for each split one."""
    stays = kept.clone()
    stays[split] = False
    pieces = split.repeat(_PIECES)
    rows = torch.cat([stays.nonzero().squeeze(1), cloned, pieces])
    take(parameters, optimizer, rows, num_fresh=len(cloned) + len(pieces))
    if not len(pieces):
        return
    means, log_scales = parameters["means"], parameters["log_scales"]
    last = slice(len(rows) - len(pieces), None)
    noise = torch.randn(len(pieces), 3, generator=generator, device=means.device, dtype=means.dtype)
    rotation = geometry.rotation_from_quaternion(parameters["quats"][last])
    means[last] += (rotation * (noise * log_scales[last].exp())[:, None]).sum(2)
    log_scales[last] -= log(_SHRINK)
