"""Fewer Gaussians after a fit: those that no photograph would miss, and those that nobody sees.

The score of a Gaussian is its blending weight, alpha times transmittance, summed over all pixels of
the training views. It is the gradient of the summed pictures by the Gaussian's colour, so that one
pass back per view gives it for all (as in Fan et al., "LightGaussian", NeurIPS 2024, and Hanson et
al., "Speedy-Splat", CVPR 2025, who also score by the training views).
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rap.camera import Camera
from rap.splat.gaussians import Gaussians
from rap.splat.memory import in_batches
from rap.splat.order import in_order
from rap.splat.reference import MIN_ALPHA
from rap.splat.render import render

_VIEWS_PER_CALL = 4


def contributions(
    gaussians: Gaussians, camera: Camera, camera_from_world: Float[Tensor, "v 4 4"]
) -> Float[Tensor, " n"]:
    """Every Gaussian's summed blending weight, in pixels; they add up to the summed alpha.

    With fewer views in a call where memory runs out.
    """
    colors = gaussians.means.new_zeros(1, gaussians.num, 3, requires_grad=True)
    total = torch.zeros_like(gaussians.opacity_logits, requires_grad=False)

    def add(views: slice) -> None:
        rgb = render(gaussians, camera, camera_from_world[views], colors=colors).rgb
        total.add_(torch.autograd.grad(rgb.sum(), colors)[0][0].mean(1))

    in_batches(len(camera_from_world), _VIEWS_PER_CALL, add)
    return total


def best(scores: Float[Tensor, " n"], removed: float) -> Int64[Tensor, " m"]:
    """Indices, ascending, of all but the share `removed` with the lowest scores; at least one."""
    num_kept = max(len(scores) - int(removed * len(scores)), 1)
    return scores.argsort(descending=True, stable=True)[:num_kept].sort().values


def visible(gaussians: Gaussians) -> Gaussians:
    """Without those that are too faint for any pixel: pictures stay the same, to the bit."""
    index = (gaussians.opacities >= MIN_ALPHA).nonzero().squeeze(1)
    return in_order(gaussians, index) if len(index) else gaussians
