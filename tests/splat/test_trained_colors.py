"""Colours of the fit: those of `view_colors`, to any degree, on both ways, with gradients."""

import pytest
import torch
from torch import Tensor

from rap import geometry
from rap.splat.colors import view_colors
from rap.splat.gaussians import Gaussians
from rap.splat.render import gsplat_available
from rap.splat.trained_colors import trained_colors


def make_gaussians(device: torch.device, degree: int = 3) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(60, 3 + 3 * (degree + 1) ** 2, generator=generator)
    sh = 0.4 * normal[:, 3:].unflatten(1, (-1, 3))
    zeros = torch.zeros(60, 4)
    return Gaussians(
        normal[:, :3].to(device).requires_grad_(), zeros.to(device), zeros[:, :3].to(device),
        zeros[:, 0].to(device), sh.to(device).requires_grad_(),
    )  # fmt: skip


def make_views(num: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    rotation = geometry.random_rotations_within(num, 60.0, generator)
    return geometry.rigid(rotation, torch.randn(num, 3, generator=generator) * 3).to(device)


@pytest.mark.parametrize("num_views", [1, 3])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_colours_and_gradients_are_the_plain_ones(
    device: torch.device, degree: int, num_views: int
) -> None:
    """Up to rounding, on the GPU by gsplat's kernel."""
    if device.type == "cuda" and not gsplat_available()[0]:
        pytest.skip(gsplat_available()[1])
    gaussians, views = make_gaussians(device), make_views(num_views, device)
    centres = geometry.invert(views)[:, :3, 3]
    plain = view_colors(gaussians, views, sh_degree=degree).expand(num_views, -1, -1)
    found = trained_colors(gaussians, centres, degree)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    weights = torch.rand(plain.shape, generator=torch.Generator().manual_seed(2)).to(device)
    gradients = [
        torch.autograd.grad((colors * weights).sum(), (gaussians.means, gaussians.sh),
                            allow_unused=True)
        for colors in (found, plain)
    ]  # fmt: skip
    for ours, expected in zip(*gradients, strict=True):
        if expected is not None:
            torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


def test_degrees_that_are_not_stored_are_none(device: torch.device) -> None:
    """The schedule may ask for more than there is."""
    gaussians, views = make_gaussians(device, degree=1), make_views(2, device)
    centres = geometry.invert(views)[:, :3, 3]
    assert torch.equal(trained_colors(gaussians, centres, 9), trained_colors(gaussians, centres, 1))
