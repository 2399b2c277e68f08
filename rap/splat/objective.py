"""What a fit minimises."""

from jaxtyping import Float
from torch import Tensor

from rap.config import FitConfig
from rap.splat import quality
from rap.splat.gaussians import Gaussians


def objective(
    gaussians: Gaussians,
    rgb: Float[Tensor, "b 3 h w"],
    photos: Float[Tensor, "b 3 h w"],
    config: FitConfig,
) -> Float[Tensor, ""]:
    """L1 and SSIM against the photographs, and the means of opacity and scale."""
    absolute = (rgb - photos).abs().mean()
    unlike = 1 - quality.ssim(rgb, photos)
    loss = (1 - config.ssim_weight) * absolute + config.ssim_weight * unlike
    loss = loss + config.opacity_reg * gaussians.opacities.mean()
    return loss + config.scale_reg * gaussians.scales.mean()
