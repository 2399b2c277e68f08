"""How the light differs from photograph to photograph: codes that recolour Gaussians, and exposure.

A code per training image passes through a small hypernetwork to a matrix, which turns the features
of a Gaussian into an affine change of its colour (gain and offset per channel, as WildGaussians
has it: Kulhanek et al., NeurIPS 2024). The matrix depends on the code alone, so the colours of all
Gaussians in all appearances are one matrix product. An exposure affine then changes each picture.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

NUM_AFFINE = 6
"""Numbers that change the colour of one Gaussian: three gains and three offsets."""


@dataclass(frozen=True, eq=False)
class Appearance:
    """Light of m training images on n Gaussians; the zero code leaves every colour as it is."""

    codes: Float[Tensor, "m c"]
    """One per training image, in their order; of mean zero after a fit."""
    features: Float[Tensor, "n f"]
    """One row per Gaussian."""
    hidden: Float[Tensor, "c h"]
    output: Float[Tensor, "h f6"]
    """Columns are a row-major [f, 6] matrix; no biases, so that the zero code changes nothing."""
    exposure: Float[Tensor, "m 3 4"]
    """Affine change of the finished picture of each training image, red, green, blue, one."""

    @property
    def num_codes(self) -> int:
        """Numbers in a code; 0 where photographs differ by their exposure alone."""
        return self.codes.shape[1]

    @property
    def num_images(self) -> int:
        """Training images that the fit saw."""
        return len(self.codes)

    def to(self, device: torch.device | str) -> "Appearance":
        """The same appearance on another device."""
        return Appearance(*(getattr(self, field.name).to(device) for field in fields(self)))


def identity_exposure(num: int, like: Float[Tensor, "..."]) -> Float[Tensor, "{num} 3 4"]:
    """Exposures that change nothing, of the type and on the device of `like`."""
    return torch.eye(3, 4, dtype=like.dtype, device=like.device).repeat(num, 1, 1)


def color_affine(appearance: Appearance, codes: Float[Tensor, "a c"]) -> Float[Tensor, "a n 6"]:
    """Gain minus one and offset of every Gaussian in every appearance: one product for all."""
    num_features = appearance.features.shape[1]
    matrices = torch.tanh(codes @ appearance.hidden) @ appearance.output
    stacked = matrices.view(len(codes), num_features, NUM_AFFINE).transpose(1, 2).flatten(0, 1)
    affine = stacked @ appearance.features.mT
    return affine.unflatten(0, (len(codes), NUM_AFFINE)).transpose(1, 2)


def apply_affine(
    colors: Float[Tensor, "#a n 3"], affine: Float[Tensor, "a n 6"]
) -> Float[Tensor, "a n 3"]:
    """Colours after gain and offset, at least 0."""
    return (colors + colors * affine[..., :3] + affine[..., 3:]).clamp_min(0)


def apply_exposure(
    rgb: Float[Tensor, "v 3 h w"], exposure: Float[Tensor, "v 3 4"]
) -> Float[Tensor, "v 3 h w"]:
    """Pictures after the affine change of each; not clamped."""
    changed = torch.baddbmm(exposure[:, :, 3:], exposure[:, :, :3], rgb.flatten(2))
    return changed.view_as(rgb)
