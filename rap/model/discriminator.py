"""Tells features of photographs from features of renderings, patch by patch.

The published discriminator ends in a dense layer that fits one image size, and its BatchNorm mixes
the two domains. This one scores every patch (Isola et al., "pix2pix", CVPR 2017) and normalises
each sample by itself (GroupNorm).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

WIDTHS = (64, 32, 16, 8)
STRIDES = (1, 2, 1, 1)
CHANNELS_PER_GROUP = 4


class Discriminator(nn.Module):
    """Four convolutions and a patch head; any feature size from 1×1 on."""

    __call__: Callable[[Tensor], Tensor]

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (width, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True)):
            layers.append(nn.Conv2d(channels, width, 3, stride, padding=1))
            if index > 0:
                layers.append(nn.GroupNorm(width // CHANNELS_PER_GROUP, width))
            layers += [nn.LeakyReLU(0.2), nn.Dropout2d(0.25)]
            channels = width
        layers.append(nn.Conv2d(channels, 1, 3, padding=1))
        self.layers = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n p"]:
        """One score per patch: towards 1 for photographs, towards 0 for renderings (LSGAN)."""
        return self.layers(features).flatten(1)


def build_discriminator(channels: int, seed: int) -> Discriminator:
    """A freshly initialised discriminator; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Discriminator(channels)


def _initialise(module: nn.Module) -> None:
    """DCGAN's: convolutions from N(0, 0.02), norm gains from N(1, 0.02), biases zero."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        nn.init.zeros_(module.bias) if module.bias is not None else None
    elif isinstance(module, nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
