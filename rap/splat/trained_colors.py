"""Colours of Gaussians while they are fitted: what `view_colors` gives, in few launches each way.

A step of a fit waits for the host, which spends about ten microseconds on every operation, there
and back. The harmonics in plain torch are over a hundred of them; gsplat's kernel is two.
"""

import importlib

import torch
from jaxtyping import Float
from torch import Tensor

from rap.splat.appearance import apply_affine, color_affine
from rap.splat.colors import harmonic_colors
from rap.splat.gaussians import Gaussians
from rap.splat.render import gsplat_available


def trained_colors(
    gaussians: Gaussians,
    centres: Float[Tensor, "v 3"],
    degree: int,
    codes: Float[Tensor, "v c"] | None = None,
) -> Float[Tensor, "v n 3"]:
    """Colours seen from camera centres with harmonics up to a degree, at least 0.

    With codes each view has its own appearance. Differentiable in everything but the centres.
    """
    degree = min(degree, gaussians.sh_degree)
    if degree and gaussians.means.is_cuda and gsplat_available()[0]:
        colors = _by_gsplat(gaussians, centres, degree)
    else:
        colors = harmonic_colors(gaussians, centres, degree)
    if codes is None or gaussians.appearance is None:
        return colors.clamp_min(0)
    return apply_affine(colors, color_affine(gaussians.appearance, codes))


def _by_gsplat(
    gaussians: Gaussians, centres: Float[Tensor, "v 3"], degree: int
) -> Float[Tensor, "v n 3"]:
    """View by view: for several at once gsplat copies the coefficients for each."""
    spherical_harmonics = importlib.import_module("gsplat").spherical_harmonics
    seen = [
        spherical_harmonics(degree, gaussians.means - centre, gaussians.sh) for centre in centres
    ]
    return 0.5 + (seen[0][None] if len(seen) == 1 else torch.stack(seen))
