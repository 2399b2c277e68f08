"""Photometric augmentation: what exposure, white balance, optics and the sensor do to a picture."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

GAMMA = 0.3  # natural log, either way
GAIN = 0.25
WHITE_BALANCE = 0.08
OFFSET = 0.05
NOISE = 0.03
SHARPNESS = 1.0


def photometric(
    images: Float[Tensor, "b 3 h w"], strength: float, generator: torch.Generator
) -> Float[Tensor, "b 3 h w"]:
    """Each image under its own random exposure, colour cast, sharpness and noise, in [0, 1].

    Strength 1 draws gamma from e^±0.3, gain from 1 ± 0.25, white balance per channel from 1 ± 0.08,
    black level from ±0.05, noise up to σ = 0.03, and blurs (3×3 mean) or sharpens (unsharp mask)
    by up to 1; other strengths scale these ranges. Renderings are smoother than photographs:
    random sharpness on both keeps the network from telling poses by it. Runs on the images'
    device, on which the generator must live, without waiting for it.
    """
    num = len(images)

    def symmetric(limit: float, channels: int = 1) -> Tensor:
        uniform = torch.rand(num, channels, 1, 1, generator=generator, device=images.device)
        return (2 * uniform - 1) * (limit * strength)

    sharpness = symmetric(SHARPNESS).clamp(-1, 1)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    drawn = images + sharpness * (images - blurred)
    drawn = drawn.clamp(1e-4, 1) ** symmetric(GAMMA).exp()
    drawn = drawn * (1 + symmetric(GAIN)) * (1 + symmetric(WHITE_BALANCE, channels=3))
    noise = torch.randn(drawn.shape, generator=generator, device=images.device)
    drawn = drawn + symmetric(OFFSET) + symmetric(NOISE) * noise
    return drawn.clamp(0, 1)
