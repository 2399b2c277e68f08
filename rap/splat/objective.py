"""What a fit minimises: differences from the photographs, and from depth where there is any."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from rap.config import FitConfig
from rap.splat import light, quality
from rap.splat.gaussians import Gaussians
from rap.splat.render import Rendering

MIN_DEPTH_M = 0.05
"""Nearer depth counts as this: the inverse of a depth of nothing would outweigh all else."""


@dataclass(frozen=True, eq=False)
class Targets:
    """What renderings are compared with, on the device."""

    images: UInt8[Tensor, "n 3 h w"]
    depths: Float[Tensor, "n h w"] | None = None
    """Camera z in metres, 0 where unknown."""
    masks: Bool[Tensor, "n h w"] | None = None
    """False where the picture does not count."""

    def photos(self, chosen: Int64[Tensor, " b"]) -> Float[Tensor, "b 3 h w"]:
        """Photographs by index, in [0, 1]."""
        return self.images.index_select(0, chosen).float().div_(255)

    def to(self, device: torch.device) -> "Targets":
        """The same on another device."""
        depths, masks = self.depths, self.masks
        return Targets(
            self.images.to(device),
            None if depths is None else depths.to(device),
            None if masks is None else masks.to(device),
        )


def objective(
    gaussians: Gaussians,
    shown: Rendering,
    targets: Targets,
    chosen: Int64[Tensor, " b"],
    config: FitConfig,
    extent_m: float,
) -> Float[Tensor, ""]:
    """L1 and SSIM against the chosen photographs, L1 of inverse depth, and what regularises.

    What a mask leaves out is black in both pictures, so that nothing can be gained there.
    """
    rgb, photos = shown.rgb, targets.photos(chosen)
    mask = None if targets.masks is None else targets.masks.index_select(0, chosen)
    if mask is not None:
        rgb, photos = rgb * mask[:, None], photos * mask[:, None]
    loss = (1 - config.ssim_weight) * functional.l1_loss(rgb, photos)
    if config.ssim_weight:
        loss = loss + config.ssim_weight * (1 - quality.ssim(rgb, photos))
    if config.depth_weight and targets.depths is not None and shown.depth is not None:
        depths = targets.depths.index_select(0, chosen).float()
        known = depths > 0 if mask is None else (depths > 0) & mask
        loss = loss + config.depth_weight * extent_m * depth_loss(shown.depth, depths, known)
    if config.strategy == "mcmc":
        loss = loss + config.opacity_reg * gaussians.opacities.mean()
        loss = loss + config.scale_reg * gaussians.scales.mean()
    if gaussians.appearance is not None:
        loss = loss + config.appearance_reg * light.penalty(gaussians.appearance)
    return loss


def depth_loss(
    rendered: Float[Tensor, "b h w"], depths: Float[Tensor, "b h w"], known: Bool[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Mean difference of the inverse depths, in 1/m, over pixels that are known and drawn.

    The inverse, as noise of depth cameras grows with its square and near things fill the picture.
    """
    counted = known & (rendered.detach() > 0)
    difference = 1 / rendered.clamp(min=MIN_DEPTH_M) - 1 / depths.clamp(min=MIN_DEPTH_M)
    return torch.where(counted, difference, 0).abs().sum() / counted.sum().clamp(min=1)
