"""Views are drawn as the splat was fitted."""

from dataclasses import replace

import pytest
import torch

from rap.camera import Camera
from rap.config import ViewsConfig
from rap.data.images import ImageBank
from rap.geometry import invert
from rap.splat.gaussians import Gaussians
from rap.splat.render import render
from rap.synthesis.views import anchors_of, refresh_views, render_images

CAMERA = Camera(40.0, 40.0, 16.0, 12.0, 32, 24)


def _small_gaussians(antialiased: bool) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(60, 3, generator=generator) * 2 - 1
    means[:, 2] += 3
    return Gaussians(
        means,
        torch.tensor([1.0, 0, 0, 0]).repeat(60, 1),
        torch.full((60, 3), -4.5),
        torch.full((60,), 3.0),
        torch.rand(60, 1, 3, generator=generator),
        antialiased=antialiased,
    )


@pytest.mark.parametrize("antialiased", [True, False])
def test_views_are_drawn_as_the_splat_was_fitted(antialiased: bool) -> None:
    """A splat that was fitted classically is not drawn thinner in training."""
    gaussians, cpu = _small_gaussians(antialiased), torch.device("cpu")
    empty = torch.zeros(2, 3, CAMERA.height, CAMERA.width, dtype=torch.uint8)
    bank = ImageBank(empty, torch.zeros(2, 4, 4), cpu, 1 << 20, pin_memory=False)
    anchors = anchors_of(torch.eye(4).repeat(2, 1, 1), margin_m=0.2)
    config = ViewsConfig(min_coverage=0.0)
    refresh_views(bank, gaussians, CAMERA, anchors, config, torch.Generator().manual_seed(1))

    def drawn(antialiased: bool) -> torch.Tensor:
        rendering = render(gaussians, CAMERA, invert(bank.poses), antialiased=antialiased)
        return (rendering.rgb.clamp(0, 1) * 255 + 0.5).to(torch.uint8)

    assert torch.equal(bank.images, drawn(antialiased))
    assert not torch.equal(bank.images, drawn(not antialiased))
    other = replace(gaussians, antialiased=not antialiased)
    assert torch.equal(render_images(other, CAMERA, bank.poses)[0], drawn(not antialiased))
