"""What a fit learns about light: a code and an exposure per photograph, and the head they share.

Guards against explaining geometry away by light: both are centred over the photographs in every
step, so the plain colours stay the mean appearance; now and then a photograph is shown without
them; all are held near doing nothing; the head learns five times slower than the codes; and all
come to rest with the fit.
"""

from dataclasses import dataclass
from math import sqrt, tau

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from rap.config import FitConfig
from rap.splat.appearance import NUM_AFFINE, Appearance, identity_exposure

NUM_FEATURES = 16
NUM_HIDDEN = 32
CODE_RATE = 5.0
"""Learning rates of codes and features over that of the head."""
EXPOSURE_RATE = 0.3
_FINAL_RATE = 0.02
"""Of all rates at the end of a fit over those at its start."""
_WAVES_PER_EXTENT = 0.5
"""Of the first features across the scene: neighbours start alike, as light falls."""
_INITIAL_CODE = 0.3

Light = dict[str, nn.Parameter]
"""`codes`, `hidden`, `output` and `exposure` of a fit; empty without appearance."""


@dataclass(frozen=True, eq=False)
class Shown:
    """How the photographs of one step are lit; none: as all others."""

    codes: Float[Tensor, "b c"] | None = None
    exposure: Float[Tensor, "b 3 4"] | None = None


def initial_features(
    means: Float[Tensor, "n 3"], extent_m: float, generator: torch.Generator
) -> Float[Tensor, "n f"]:
    """Random waves across the scene, and a one: light differs smoothly from place to place."""
    shape = (3, NUM_FEATURES - 1)
    waves = torch.randn(shape, generator=generator, device=means.device)
    phase = torch.rand(shape[1], generator=generator, device=means.device)
    turns = (means / extent_m) @ (waves * _WAVES_PER_EXTENT) + phase
    return torch.cat([torch.ones_like(means[:, :1]), sqrt(2) * (tau * turns).cos()], dim=1)


def initial_light(num_images: int, config: FitConfig, generator: torch.Generator) -> Light:
    """Small random codes and a head that does nothing yet; empty when `config` wants none."""
    if config.appearance_dim == 0:
        return {}
    device, num_codes = generator.device, config.appearance_dim
    codes = torch.randn(num_images, num_codes, generator=generator, device=device)
    hidden = torch.randn(num_codes, NUM_HIDDEN, generator=generator, device=device)
    values = {
        "codes": _INITIAL_CODE * codes,
        "hidden": hidden / sqrt(num_codes),
        "output": torch.zeros(NUM_HIDDEN, NUM_FEATURES * NUM_AFFINE, device=device),
        "exposure": torch.zeros(num_images, 3, 4, device=device),
    }
    return {name: nn.Parameter(value) for name, value in values.items()}


def learning_rates(config: FitConfig) -> dict[str, float]:
    """Of every part of the light, and of the Gaussians' features."""
    head = config.appearance_lr
    return {
        "features": CODE_RATE * head, "codes": CODE_RATE * head, "hidden": head, "output": head,
        "exposure": EXPOSURE_RATE * head,
    }  # fmt: skip


def set_learning_rates(optimizer: torch.optim.Optimizer, config: FitConfig, done: float) -> None:
    """Those of a share of the fit that is done; the optimiser's other groups stay as they are.

    They grow with the root of the images in a step, as all rates of a fit (`initial.adam`).
    """
    rates = learning_rates(config)
    factor = sqrt(config.images_per_step) * _FINAL_RATE**done
    for group in optimizer.param_groups:
        if group["name"] in rates:
            group["lr"] = rates[group["name"]] * factor


def appearance_of(light: Light, features: Float[Tensor, "n f"]) -> Appearance:
    """The appearance model as it stands: codes of mean zero, exposures of mean identity."""
    change = light["exposure"]
    return Appearance(
        codes=light["codes"] - light["codes"].mean(0),
        features=features,
        hidden=light["hidden"],
        output=light["output"],
        exposure=identity_exposure(len(change), change) + change - change.mean(0),
    )


def shown(
    appearance: Appearance | None,
    chosen: Int64[Tensor, " b"],
    dropout: float,
    generator: torch.Generator,
) -> Shown:
    """Codes and exposures of photographs; each time some are shown in the mean appearance."""
    if appearance is None:
        return Shown()
    draws = torch.rand(len(chosen), generator=generator, device=generator.device)
    kept: Bool[Tensor, " b"] = draws >= dropout
    codes = appearance.codes[chosen] * kept[:, None]
    exposure = appearance.exposure[chosen]
    same = identity_exposure(len(chosen), exposure)
    return Shown(codes, torch.where(kept[:, None, None], exposure, same))


def penalty(appearance: Appearance) -> Float[Tensor, ""]:
    """Mean squares of codes, of the head's output and of what the exposures change."""
    change = appearance.exposure - identity_exposure(appearance.num_images, appearance.exposure)
    parts = (appearance.codes, appearance.output, change)
    return torch.stack([part.square().mean() for part in parts]).sum()
