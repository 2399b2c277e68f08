"""Colours of Gaussians seen from cameras, in an appearance: evaluated for each view, or baked."""

import torch
from jaxtyping import Float
from torch import Tensor

from rap.splat.appearance import apply_affine, color_affine
from rap.splat.gaussians import Gaussians
from rap.splat.harmonics import BASE, basis


def view_colors(
    gaussians: Gaussians,
    camera_from_world: Float[Tensor, "v 4 4"],
    codes: Float[Tensor, "v c"] | None = None,
    sh_degree: int | None = None,
) -> Float[Tensor, "#v n 3"]:
    """Colour of every Gaussian seen from every camera centre, at least 0.

    With `codes` each view has the appearance of its code. Harmonics above `sh_degree` are left
    out. At degree 0 and without codes all views share one set. Differentiable; memory for the
    harmonics is 4·(degree + 1)² bytes for each (view, Gaussian).
    """
    degree = used_degree(gaussians, sh_degree)
    rotation, translation = camera_from_world[:, :3, :3], camera_from_world[:, :3, 3:]
    centres = -(rotation.mT @ translation).squeeze(-1)
    plain = harmonic_colors(gaussians, centres if degree else centres[:1], degree)
    return recolored(gaussians, plain, codes)


def harmonic_colors(
    gaussians: Gaussians, centres: Float[Tensor, "v 3"], degree: int
) -> Float[Tensor, "v n 3"]:
    """Colours seen from points in the world, before any appearance; they may be below 0."""
    if degree == 0:
        return (0.5 + BASE * gaussians.sh[:, 0]).expand(len(centres), -1, -1)
    offsets = gaussians.means - centres[:, None]
    values = basis(torch.nn.functional.normalize(offsets, dim=-1), degree)
    return 0.5 + torch.einsum("vnk,nkc->vnc", values, gaussians.sh[:, : values.shape[-1]])


def recolored(
    gaussians: Gaussians, colors: Float[Tensor, "#v n 3"], codes: Float[Tensor, "v c"] | None
) -> Float[Tensor, "#v n 3"]:
    """Colours in the appearances of codes (none: as they are), at least 0."""
    if codes is None:
        return colors.clamp_min(0)
    if gaussians.appearance is None:
        raise ValueError("codes are given, but these Gaussians were fitted without appearance")
    return apply_affine(colors, color_affine(gaussians.appearance, codes.to(colors)))


def used_degree(gaussians: Gaussians, sh_degree: int | None) -> int:
    """The degree to evaluate: all that is stored, or less."""
    return gaussians.sh_degree if sh_degree is None else min(sh_degree, gaussians.sh_degree)
