"""Exposure and white balance solved from pictures."""

import pytest
import torch

from rap.splat.appearance import apply_exposure, identity_exposure
from rap.splat.exposure import solved_exposure


@pytest.fixture
def pictures() -> torch.Tensor:
    """Two colourful pictures in float64."""
    return torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0)).double()


def test_a_known_change_is_found(pictures: torch.Tensor, device: torch.device) -> None:
    """With next to no ridge the solution is the affine that made the photographs."""
    change = identity_exposure(2, pictures) * 0.8 + 0.05
    found = solved_exposure(pictures.to(device), apply_exposure(pictures, change).to(device), 1e-12)
    torch.testing.assert_close(found.cpu(), change)


def test_the_ridge_pulls_towards_no_change(pictures: torch.Tensor) -> None:
    """A large ridge leaves pictures as they are, a small one does not."""
    same = identity_exposure(2, pictures)
    photos = 0.5 * pictures
    assert (solved_exposure(pictures, photos, 1e4) - same).abs().max() < 1e-3
    assert (solved_exposure(pictures, photos, 1e-3) - same).abs().max() > 0.3


def test_a_picture_of_one_colour_has_a_solution(pictures: torch.Tensor) -> None:
    """Black tells nothing about gains; the answer is finite and maps it to the mean colour."""
    black = torch.zeros_like(pictures)
    mapped = apply_exposure(black, solved_exposure(black, pictures, 1e-9))
    torch.testing.assert_close(mapped.mean((2, 3)), pictures.mean((2, 3)), atol=1e-6, rtol=0)


def test_masked_pixels_say_nothing_about_the_exposure(
    pictures: torch.Tensor, device: torch.device
) -> None:
    """The affine is that of the other pixels, whose number differs between the pictures."""
    change = identity_exposure(2, pictures) * 0.8 + 0.05
    photos = apply_exposure(pictures, change)
    mask = torch.ones(2, 12, 16, dtype=torch.bool)
    mask[0, :9], mask[1, :, 5:] = False, False
    photos = torch.where(mask[:, None], photos, 1.0)
    inputs = (pictures.to(device), photos.to(device))
    found = solved_exposure(*inputs, 1e-12, mask.to(device)).cpu()
    torch.testing.assert_close(found, change)
    cut = solved_exposure(pictures[:1, :, 9:], photos[:1, :, 9:], 0.1)
    whole = solved_exposure(pictures[:1], photos[:1], 0.1, mask[:1])
    torch.testing.assert_close(whole, cut)


def test_a_picture_that_is_masked_out_keeps_its_colours(pictures: torch.Tensor) -> None:
    """Without a single pixel that counts the ridge decides."""
    mask = torch.zeros(2, 12, 16, dtype=torch.bool)
    found = solved_exposure(pictures, 0.5 * pictures, 0.01, mask)
    torch.testing.assert_close(found, identity_exposure(2, pictures))


def test_nothing_flows_back_through_the_solution(pictures: torch.Tensor) -> None:
    """The gradient of the compared picture is that of a fixed affine."""
    rgb = pictures.clone().requires_grad_()
    exposure = solved_exposure(rgb, 0.5 * pictures, 0.01)
    assert not exposure.requires_grad
    apply_exposure(rgb, exposure).sum().backward()
    expected = exposure[:, :, :3].sum(1)[:, :, None, None].expand_as(rgb)
    torch.testing.assert_close(rgb.grad, expected)
