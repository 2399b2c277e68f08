"""Photometric augmentation: what optics, exposure, white balance and the sensor do to a picture.

For photographs and views alike, each image by its own draws, in the order of a camera: the lens
(`optics`), then exposure, colour, tone and noise (`photometric`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from rap.config import TrainConfig

GAMMA = 0.3  # natural log, either way
GAIN = 0.25
WHITE_BALANCE = 0.08
OFFSET = 0.05
NOISE = 0.03
SHARPNESS = 1.0
_SHARP_PX = 1e-2
"""A blur narrower than this is none."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some images of a batch, so that each gets the draws that it would get among all of them."""

    num: int
    """Images of the whole batch, for which numbers are drawn."""
    rows: Int64[Tensor, "b"]
    """Which of them these are, on their device."""


def photometric(
    images: Float[Tensor, "b 3 h w"],
    strength: float,
    generator: torch.Generator,
    part: Part | None = None,
) -> Float[Tensor, "b 3 h w"]:
    """Each image under its own random exposure, colour cast, sharpness and noise, in [0, 1].

    Strength 1 draws gamma from e^±0.3, gain from 1 ± 0.25, white balance per channel from 1 ± 0.08,
    black level from ±0.05, noise up to σ = 0.03, and blurs (3×3 mean) or sharpens (unsharp mask)
    by up to 1; other strengths scale these ranges. Renderings are smoother than photographs:
    random sharpness on both keeps the network from telling poses by it. Runs on the images'
    device, on which the generator must live, without waiting for it. A `part` of a batch costs the
    draws of the whole one.
    """
    num = len(images) if part is None else part.num

    def symmetric(limit: float, channels: int = 1) -> Tensor:
        uniform = torch.rand(num, channels, 1, 1, generator=generator, device=images.device)
        return (2 * _own(uniform, part) - 1) * (limit * strength)

    sharpness = symmetric(SHARPNESS).clamp(-1, 1)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    drawn = images + sharpness * (images - blurred)
    drawn = drawn.clamp(1e-4, 1) ** symmetric(GAMMA).exp()
    drawn = drawn * (1 + symmetric(GAIN)) * (1 + symmetric(WHITE_BALANCE, channels=3))
    shape = (num, *drawn.shape[1:])
    noise = _own(torch.randn(shape, generator=generator, device=images.device), part)
    drawn = drawn + symmetric(OFFSET) + symmetric(NOISE) * noise
    return drawn.clamp(0, 1)


def optics(
    images: Float[Tensor, "b 3 h w"],
    vignette: float,
    blur_px: float,
    generator: torch.Generator,
    part: Part | None = None,
) -> Float[Tensor, "b 3 h w"]:
    """Each image through its own lens: corners darkened by up to `vignette`, and out of focus.

    Light falls with the square of the distance from the centre, to 1 - U(0, vignette) in the
    corners. The blur is Gaussian with a deviation of U(0, blur_px) pixels, as two products with
    banded matrices whose rows sum to 1 at the borders, too. Zero draws nothing.
    """
    _, _, height, width = images.shape
    num = len(images) if part is None else part.num
    if blur_px:
        deviation = _own(_uniform(num, blur_px, generator), part).clamp_min(_SHARP_PX)
        across = _blur_matrices(width, deviation.to(images))
        down = _blur_matrices(height, deviation.to(images))
        images = down[:, None] @ images @ across[:, None].mT
    if vignette:
        y = torch.linspace(-1, 1, height, device=images.device)[:, None]
        x = torch.linspace(-1, 1, width, device=images.device) * (width / height)
        squared = (x.square() + y.square()) / (1 + (width / height) ** 2)
        loss = _own(_uniform(num, vignette, generator), part)[:, None, None, None]
        images = images * (1 - loss.to(images) * squared)
    return images


def augmented(
    images: Float[Tensor, "b 3 h w"],
    config: TrainConfig,
    generator: torch.Generator,
    part: Part | None = None,
) -> Float[Tensor, "b 3 h w"]:
    """All that the settings ask for; with every one at 0, the images themselves."""
    if config.augment_vignette or config.augment_blur_px:
        images = optics(images, config.augment_vignette, config.augment_blur_px, generator, part)
    return photometric(images, config.augment, generator, part) if config.augment else images


def _own(drawn: Float[Tensor, "n *row"], part: Part | None) -> Float[Tensor, "b *row"]:
    return drawn if part is None else drawn.index_select(0, part.rows)


def _uniform(num: int, limit: float, generator: torch.Generator) -> Float[Tensor, "{num}"]:
    return torch.rand(num, generator=generator, device=generator.device) * limit


def _blur_matrices(size: int, deviation: Float[Tensor, "b"]) -> Float[Tensor, "b {size} {size}"]:
    position = torch.arange(size, device=deviation.device, dtype=deviation.dtype)
    distance = (position[:, None] - position) / deviation[:, None, None]
    return torch.softmax(-0.5 * distance.square(), dim=-1)
