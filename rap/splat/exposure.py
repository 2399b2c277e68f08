"""The exposure and white balance of a photograph, solved from a rendering instead of learnt.

A camera that sets its own exposure shows one wall in many colours. Learnt per photograph, its
affine gets a step only when the photograph is drawn, some twenty times in a short fit; solved in
closed form in every step it is exact at once, and no parameter can explain geometry away.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from rap.splat.appearance import identity_exposure

RIDGE = 0.01
"""Pull towards no change at all, relative to pictures of mean square 1."""
_PART = 256


def solved_exposure(
    rgb: Float[Tensor, "b 3 h w"],
    photos: Float[Tensor, "b 3 h w"],
    ridge: float,
    mask: Bool[Tensor, "b h w"] | None = None,
) -> Float[Tensor, "b 3 4"]:
    """The affine change of each rendering's colours that brings it nearest to its photograph.

    Least squares over all pixels, or those where `mask` is true, with `ridge` times the squared
    distance from the identity, by normal equations in the pictures' own precision (a small ridge
    wants float64); as constants: nothing flows back through the solution. Waits for nothing.
    """
    with torch.no_grad():
        rows = torch.cat([rgb, torch.ones_like(rgb[:, :1]), photos.to(rgb)], dim=1).flatten(2)
        num_pixels = counted = rows.shape[2]
        if mask is not None:
            rows = rows * mask.flatten(1)[:, None]
            counted = mask.sum(dim=(1, 2)).clamp(min=1)[:, None, None]
        # sums in short parts: a GPU gives a product of few rows and many columns to one processor
        parts = functional.pad(rows, (0, -num_pixels % _PART)).unflatten(2, (-1, _PART))
        parts = parts.transpose(1, 2)
        products = (parts @ parts.mT).sum(1) / counted
        same = identity_exposure(len(rgb), rgb)
        damping = ridge * torch.eye(4, dtype=rgb.dtype, device=rgb.device)
        # linalg.solve would wait for the device to report singular systems, which a ridge rules out
        solution, _ = torch.linalg.solve_ex(
            products[:, :4, :4] + damping, products[:, :4, 4:] + ridge * same.mT
        )
        return solution.mT
