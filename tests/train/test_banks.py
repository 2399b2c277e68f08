"""What a run reads: renderings in the photographs' own light, and settings that are refused."""

from dataclasses import replace

import pytest
import torch

from rap.config import Config, ConfigError, LossWeights
from rap.scene import Scene
from rap.splat.appearance import Appearance, identity_exposure
from rap.splat.gaussians import Gaussians
from rap.train.banks import prepare

CPU = torch.device("cpu")
NUM = 10
"""Photographs of the tiny scene, two of which are held out."""


def lit(gaussians: Gaussians, num_images: int) -> Gaussians:
    """In the exposures of so many photographs, each a little brighter."""
    light = Appearance(
        torch.zeros(num_images, 2), torch.zeros(gaussians.num, 3), torch.zeros(2, 4),
        torch.zeros(4, 18), identity_exposure(num_images, torch.zeros(1)),
    )  # fmt: skip
    light.exposure[:, :, 3] = torch.arange(num_images)[:, None] / 255
    return replace(gaussians, appearance=light)


def rendered(scene: Scene, gaussians: Gaussians, config: Config) -> torch.Tensor:
    """The bank of renderings at the photographs' poses."""
    config = replace(config, weights=LossWeights(pose=1.0, rendered=1.0, view=0.0))
    bank = prepare(scene, gaussians, config, CPU).banks.rendered
    assert bank is not None
    return bank.images.int()


def test_renderings_have_the_light_of_their_photographs(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config
) -> None:
    """Exposure by exposure; those of held-out photographs are left out."""
    difference = rendered(tiny_scene, lit(tiny_splat, NUM), tiny_config)
    plain = rendered(tiny_scene, tiny_splat, tiny_config)
    difference = (difference - plain).flatten(1).float().median(dim=1).values
    kept = difference.tolist()
    assert kept == sorted(kept)
    assert len(set(kept)) == len(kept) == NUM - 2
    assert set(kept) < set(range(NUM))


def test_light_of_other_photographs_is_not_taken(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config
) -> None:
    """A splat that was fitted to another number of photographs shows the mean appearance."""
    foreign = rendered(tiny_scene, lit(tiny_splat, NUM + 1), tiny_config)
    assert torch.equal(foreign, rendered(tiny_scene, tiny_splat, tiny_config))


def test_views_are_never_enlarged(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config
) -> None:
    """Drawing below the network's height is refused before any work."""
    config = replace(tiny_config, views=replace(tiny_config.views, render_height=24))
    with pytest.raises(ConfigError, match=r"views\.render_height = 24"):
        prepare(tiny_scene, tiny_splat, config, CPU)
