"""What a run reads: renderings in the photographs' own light, and settings that are refused."""

from dataclasses import replace

import pytest
import torch

from rap.config import Config, ConfigError, LossWeights
from rap.scene import Scene
from rap.splat.appearance import Appearance, identity_exposure
from rap.splat.gaussians import Gaussians
from rap.train.banks import held_out_mask, prepare

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
    tiny_scene: Scene,
    tiny_splat: Gaussians,
    tiny_config: Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A splat that was fitted to another number of photographs shows the mean light, and says so.

    One that fits all of them, or those not held out, says nothing.
    """
    known = rendered(tiny_scene, lit(tiny_splat, NUM), tiny_config)
    without_held_out = rendered(tiny_scene, lit(tiny_splat, NUM - 2), tiny_config)
    assert not torch.equal(without_held_out, rendered(tiny_scene, tiny_splat, tiny_config))
    assert "light" not in capsys.readouterr().err
    foreign = rendered(tiny_scene, lit(tiny_splat, NUM + 1), tiny_config)
    assert torch.equal(foreign, rendered(tiny_scene, tiny_splat, tiny_config))
    assert not torch.equal(foreign, known)
    assert "knows the light of 11 photographs, but the scene has 10" in capsys.readouterr().err


def test_new_light_mixes_none_of_held_out_photographs(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config
) -> None:
    """Codes and exposures that views are drawn from are those of the photographs trained on."""
    splat = lit(tiny_splat, NUM)
    assert splat.appearance is not None
    splat.appearance.codes[:] = torch.arange(float(NUM))[:, None]
    kept = ~torch.tensor(held_out_mask(NUM, tiny_config.train.validation_fraction))
    drawn_from = prepare(tiny_scene, splat, tiny_config, CPU).gaussians
    assert kept.sum() == NUM - 2
    assert drawn_from is not None
    assert drawn_from.appearance is not None
    assert torch.equal(drawn_from.appearance.codes, splat.appearance.codes[kept])
    assert torch.equal(drawn_from.appearance.exposure, splat.appearance.exposure[kept])


def test_views_are_never_enlarged(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config
) -> None:
    """Drawing below the network's height is refused before any work."""
    config = replace(tiny_config, views=replace(tiny_config.views, render_height=24))
    with pytest.raises(ConfigError, match=r"views\.render_height = 24"):
        prepare(tiny_scene, tiny_splat, config, CPU)
