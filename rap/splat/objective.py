"""What a fit minimises: differences from the photographs, and from depth where there is any."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from rap.config import FitConfig
from rap.splat import light, quality
from rap.splat.appearance import apply_exposure
from rap.splat.exposure import RIDGE, solved_exposure
from rap.splat.gaussians import Gaussians
from rap.splat.render import Rendering

Terms = dict[str, Float[Tensor, ""]]
"""Parts of the loss before their weights. Weighing and adding them on the device would cost more
launches than computing some of them, so the weights enter as the gradients of the terms."""

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
        return self.images.index_select(0, chosen) / 255

    def counted(self, chosen: Int64[Tensor, " b"]) -> Bool[Tensor, "b h w"] | None:
        """Masks by index; None where all pixels count."""
        return None if self.masks is None else self.masks.index_select(0, chosen)

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
) -> Terms:
    """L1 and SSIM against the chosen photographs, L1 of inverse depth, and what regularises.

    A term without weight is not computed.
    """
    rgb, photos = compared(shown.rgb, targets, chosen, config)
    terms = {}
    if config.ssim_weight < 1:
        terms["l1"] = functional.l1_loss(rgb, photos)
    if config.ssim_weight:
        terms["ssim"] = quality.ssim(rgb, photos)
    if config.depth_weight and targets.depths is not None and shown.depth is not None:
        depths = targets.depths.index_select(0, chosen).float()
        mask = targets.counted(chosen)
        known = depths > 0 if mask is None else (depths > 0) & mask
        terms["depth"] = depth_loss(shown.depth, depths, known)
    if config.strategy == "mcmc":
        terms["opacity"] = gaussians.opacities.mean()
        terms["scale"] = gaussians.scales.mean()
    if gaussians.appearance is not None:
        terms["appearance"] = light.penalty(gaussians.appearance)
    return terms


def compared(
    rgb: Float[Tensor, "b 3 h w"],
    targets: Targets,
    chosen: Int64[Tensor, " b"],
    config: FitConfig,
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"]]:
    """Renderings, in the exposure of their photographs if asked for, and the photographs.

    What a mask leaves out is black in both, so that nothing can be gained there, and says nothing
    about the exposure.
    """
    photos, mask = targets.photos(chosen), targets.counted(chosen)
    if config.exposure:
        rgb = apply_exposure(rgb, solved_exposure(rgb, photos, RIDGE, mask))
    if mask is not None:
        rgb, photos = rgb * mask[:, None], photos * mask[:, None]
    return rgb, photos


def shown_psnr(
    rgb: Float[Tensor, "b 3 h w"],
    targets: Targets,
    chosen: Int64[Tensor, " b"],
    config: FitConfig,
) -> Float[Tensor, ""]:
    """Mean PSNR in dB of what is `compared`, over the pixels that count."""
    psnr = quality.psnr(*compared(rgb, targets, chosen, config))
    mask = targets.counted(chosen)
    if mask is not None:
        psnr = psnr + 10 * torch.log10(mask.float().mean(dim=(1, 2)))
    return psnr.mean()


def term_weights(config: FitConfig, extent_m: float) -> dict[str, float]:
    """By which every term counts; SSIM is to grow."""
    return {
        "l1": 1 - config.ssim_weight,
        "ssim": -config.ssim_weight,
        "depth": config.depth_weight * extent_m,
        "opacity": config.opacity_reg,
        "scale": config.scale_reg,
        "appearance": config.appearance_reg,
    }


def total(terms: Terms, weights: dict[str, float]) -> float:
    """The loss that the terms make, 0 for equal pictures without regularisers; waits for it."""
    values = torch.stack([term.detach() for term in terms.values()]).tolist()
    loss = sum(weights[name] * value for name, value in zip(terms, values, strict=True))
    return loss - weights["ssim"]


def depth_loss(
    rendered: Float[Tensor, "b h w"], depths: Float[Tensor, "b h w"], known: Bool[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Mean difference of the inverse depths, in 1/m, over pixels that are known and drawn.

    The inverse, as noise of depth cameras grows with its square and near things fill the picture.
    """
    counted = known & (rendered.detach() > 0)
    difference = 1 / rendered.clamp(min=MIN_DEPTH_M) - 1 / depths.clamp(min=MIN_DEPTH_M)
    return torch.where(counted, difference, 0).abs().sum() / counted.sum().clamp(min=1)
