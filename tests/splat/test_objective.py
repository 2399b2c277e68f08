"""What a fit minimises: masks hide, depth counts inversely, MCMC alone regularises."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rap.config import FitConfig
from rap.splat.gaussians import Gaussians
from rap.splat.objective import (
    Targets,
    compared,
    depth_loss,
    objective,
    shown_psnr,
    term_weights,
    total,
)
from rap.splat.render import Rendering

CHOSEN = torch.tensor([2, 0])
EXTENT_M = 2.0


def make_gaussians() -> Gaussians:
    return Gaussians(
        torch.zeros(4, 3), torch.ones(4, 4), torch.zeros(4, 3), torch.zeros(4), torch.zeros(4, 1, 3)
    )


def make_case(seed: int = 0) -> tuple[Rendering, Targets]:
    """Random pictures of two views, and targets of three images with depth."""
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.rand(2, 3, 24, 20, generator=generator).requires_grad_()
    depth = torch.rand(2, 24, 20, generator=generator) + 1
    images = torch.randint(0, 256, (3, 3, 24, 20), generator=generator).byte()
    depths = (torch.rand(3, 24, 20, generator=generator) + 1).half()
    return Rendering(rgb, torch.ones(2, 24, 20), depth), Targets(images, depths)


def value(
    shown: Rendering, targets: Targets, config: FitConfig, extent_m: float = EXTENT_M
) -> Tensor:
    """The loss as one number, with a gradient."""
    terms = objective(make_gaussians(), shown, targets, CHOSEN, config)
    weights = term_weights(config, extent_m)
    summed = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    loss = summed + config.ssim_weight
    assert total(terms, weights) == pytest.approx(loss.item(), abs=1e-6)
    return loss


def test_equal_pictures_cost_only_what_regularises() -> None:
    """L1 and SSIM vanish; MCMC adds mean opacity 0.5 and mean scale 1, the classic nothing."""
    shown, targets = make_case()
    equal = replace(shown, rgb=targets.photos(CHOSEN))
    config = FitConfig(opacity_reg=0.02, scale_reg=0.03)
    assert float(value(equal, targets, config)) == pytest.approx(0.02 * 0.5 + 0.03, abs=1e-6)
    assert float(value(equal, targets, replace(config, strategy="classic"))) == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize(("weight", "left_out"), [(0.0, "ssim"), (1.0, "l1")])
def test_a_term_without_weight_is_not_computed(weight: float, left_out: str) -> None:
    """Neither L1 nor SSIM costs anything when it does not count."""
    config = FitConfig(ssim_weight=weight, strategy="classic")
    terms = objective(make_gaussians(), *make_case(), CHOSEN, config)
    assert set(terms) == {"l1", "ssim"} - {left_out}


@pytest.mark.parametrize("exposure", [False, True])
def test_masked_pixels_do_not_count(exposure: bool) -> None:
    """Whatever is painted over them in a photograph, loss and gradients stay, and they get none."""
    shown, targets = make_case()
    masks = torch.ones(3, 24, 20, dtype=torch.bool)
    masks[:, 5:15, 4:12] = False
    painted = targets.images.clone()
    painted[:, :, 5:15, 4:12] = 255
    config, gradients, losses = FitConfig(depth_weight=0.3, exposure=exposure), [], []
    assert targets.depths is not None
    far = targets.depths.masked_fill(~masks, 9.0)
    for images, depths in ((targets.images, targets.depths), (painted, far)):
        loss = value(shown, Targets(images, depths, masks), config)
        gradients.append(torch.autograd.grad(loss, shown.rgb)[0])
        losses.append(loss.item())
    assert losses[0] == losses[1]
    assert torch.equal(*gradients)
    assert not gradients[0][:, :, 5:15, 4:12].any()
    assert gradients[0][:, :, :5].any()


def test_depth_loss_is_of_inverse_depths() -> None:
    """1/2 m against 1/4 m is a quarter; unknown and undrawn pixels do not count."""
    rendered = torch.tensor([[[2.0, 0.0, 7.0, 5.0]]], requires_grad=True)
    depths = torch.tensor([[[4.0, 3.0, 0.0, 5.0]]])
    loss = depth_loss(rendered, depths, depths > 0)
    assert loss.item() == pytest.approx(0.25 / 2)
    loss.backward()
    assert rendered.grad is not None
    assert rendered.grad.flatten().nonzero().flatten().tolist() == [0]
    assert not torch.isnan(rendered.grad).any()


def test_depth_without_known_pixels_costs_nothing() -> None:
    """No division by zero."""
    rendered = torch.ones(1, 2, 2)
    assert float(depth_loss(rendered, torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).bool())) == 0


def test_depth_weight_is_relative_to_the_extent() -> None:
    """Metres cancel: twice as large a scene at twice the depths costs the same."""
    shown, targets = make_case()
    assert shown.depth is not None
    assert targets.depths is not None
    config = FitConfig(depth_weight=0.5)
    plain = value(shown, targets, FitConfig())
    first = value(shown, targets, config) - plain
    doubled = replace(shown, depth=2 * shown.depth), replace(targets, depths=2 * targets.depths)
    larger = value(*doubled, config, 2 * EXTENT_M) - plain
    assert first.item() > 0.01
    assert larger.item() == pytest.approx(first.item(), rel=1e-4)


@pytest.mark.parametrize("exposure", [False, True])
def test_exposure_is_left_out_of_the_comparison(exposure: bool) -> None:
    """A rendering that is darker by a third costs next to nothing where exposure is left out."""
    shown, targets = make_case()
    darker = replace(shown, rgb=targets.photos(CHOSEN) * 2 / 3)
    config = FitConfig(exposure=exposure, strategy="classic", ssim_weight=0.0)
    loss = float(value(darker, targets, config))
    assert loss < 0.02 if exposure else loss > 0.1


def test_the_exposure_is_that_of_the_pixels_that_count() -> None:
    """A brighter photograph costs as little with half of it masked, and what is masked is black."""
    _, targets = make_case()
    dark = 0.6 * targets.photos(CHOSEN) - 0.05
    masks = torch.ones(3, 24, 20, dtype=torch.bool)
    masks[:, :12] = False
    config = FitConfig(exposure=True)
    half = replace(targets, masks=masks)
    rgb, photos = compared(dark, half, CHOSEN, config)
    assert not rgb[:, :, :12].any()
    assert not photos[:, :, :12].any()
    whole, whole_photos = compared(dark, targets, CHOSEN, config)
    error, expected = (rgb - photos)[:, :, 12:].abs(), (whole - whole_photos).abs()
    assert error.mean() < 1.2 * expected.mean()


def test_the_psnr_shown_is_of_what_is_compared() -> None:
    """Neither what a mask hides nor a known exposure counts; half the pixels score as all do."""
    _, targets = make_case()
    photos = targets.photos(CHOSEN)
    masks = torch.ones(3, 24, 20, dtype=torch.bool)
    masks[:, :12] = False
    half, config = replace(targets, masks=masks), FitConfig()
    off = photos + 0.1
    off[:, :, :12] += 0.5
    assert float(shown_psnr(off, half, CHOSEN, config)) == pytest.approx(20, abs=1e-3)
    assert float(shown_psnr(off, targets, CHOSEN, config)) < 10
    darker = 0.7 * photos
    exposed = FitConfig(exposure=True)
    for shown in (half, targets):
        assert float(shown_psnr(darker, shown, CHOSEN, config)) < 20
        assert float(shown_psnr(darker, shown, CHOSEN, exposed)) > 30
