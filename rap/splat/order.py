"""Gaussians in the order of a space-filling curve: neighbours in space share cache lines."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rap.splat.gaussians import Gaussians

_BITS = 21
"""Per axis, so that a code fills 63 bits."""
# Each step doubles the gaps between the bits of a number, until two zeros lie between them.
_SPREAD = (
    (32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3), (2, 0x1249249249249249),
)  # fmt: skip


def morton_order(points: Float[Tensor, "n 3"]) -> Int64[Tensor, "n"]:
    """Indices of the points along the Z-order curve through their box (Morton, 1966)."""
    low = points.amin(0)
    size = (points.amax(0) - low).clamp_min(torch.finfo(points.dtype).tiny)
    cells = ((points - low) / size * (2**_BITS - 1)).long()
    for shift, mask in _SPREAD:
        cells = (cells | (cells << shift)) & mask
    x, y, z = cells.unbind(1)
    return torch.argsort(x | (y << 1) | (z << 2), stable=True)


def in_order(gaussians: Gaussians, index: Int64[Tensor, "m"]) -> Gaussians:
    """Gaussians by index, each with its appearance: permuted, or a part of them."""
    light = gaussians.appearance
    if light is not None:
        light = replace(light, features=light.features[index])
    return replace(
        gaussians, means=gaussians.means[index], quats=gaussians.quats[index],
        log_scales=gaussians.log_scales[index], opacity_logits=gaussians.opacity_logits[index],
        sh=gaussians.sh[index], appearance=light,
    )  # fmt: skip
