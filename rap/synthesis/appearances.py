"""New light for views: between, beyond and beside what the training photographs show."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rap.config import ViewsConfig
from rap.splat.appearance import Appearance, identity_exposure

BEYOND = 0.3
"""A mixture of two photographs' light reaches this far beyond either."""


@dataclass(frozen=True, eq=False)
class NewAppearances:
    """Light of `a` views, to be drawn with."""

    codes: Float[Tensor, "a c"]
    exposure: Float[Tensor, "a 3 4"]


def draw_appearances(
    appearance: Appearance, num: int, config: ViewsConfig, generator: torch.Generator
) -> NewAppearances:
    """Mixtures of two random photographs' light, jittered, and scaled about the mean.

    The mixture w·a + (1 - w)·b has w in [-0.3, 1.3]; codes move by `config.appearance_jitter` times
    their spread over the photographs; the scale, uniform in [0, `config.appearance_scale`], leads
    from the mean appearance (0) through the photographs' own (1) to an exaggerated one, and at most
    0 all views have the mean appearance. The exposure follows the code. On the appearance's device,
    where the generator lives, without waiting for it.
    """
    codes, device = appearance.codes, appearance.codes.device

    def uniform(low: float, high: float) -> Tensor:
        draws = torch.rand(num, 1, generator=generator, device=device)
        return low + (high - low) * draws

    pairs = torch.randint(len(codes), (2, num), generator=generator, device=device)
    weight = uniform(-BEYOND, 1 + BEYOND)
    scale = uniform(0.0, config.appearance_scale)
    noise = torch.randn(num, codes.shape[1], generator=generator, device=device)
    spread = codes.square().mean(0).sqrt()
    mixed = torch.lerp(codes[pairs[1]], codes[pairs[0]], weight)
    same = identity_exposure(num, appearance.exposure)
    first, second = appearance.exposure[pairs]
    exposure = torch.lerp(second, first, weight[:, :, None])
    return NewAppearances(
        codes=scale * (mixed + config.appearance_jitter * spread * noise),
        exposure=same + scale[:, :, None] * (exposure - same),
    )
