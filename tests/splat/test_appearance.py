"""Appearance: zero codes change nothing, one product equals the plain loop."""

import torch
from jaxtyping import Float
from torch import Tensor

from rap.splat.appearance import (
    Appearance,
    apply_affine,
    apply_exposure,
    color_affine,
    identity_exposure,
)


def appearance(num_images: int = 3, num: int = 7, dtype: torch.dtype = torch.float32) -> Appearance:
    """Random values everywhere, 4 numbers per code, 5 per Gaussian, 6 in between."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return Appearance(
        codes=normal(num_images, 4), features=normal(num, 5), hidden=normal(4, 6),
        output=normal(6, 5 * 6), exposure=normal(num_images, 3, 4),
    )  # fmt: skip


def colors(num: int = 7, dtype: torch.dtype = torch.float32) -> Float[Tensor, "1 n 3"]:
    return torch.rand(1, num, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_zero_code_shows_the_plain_colors_to_the_bit() -> None:
    """The mean appearance is the .ply's own."""
    affine = color_affine(appearance(), torch.zeros(2, 4))
    assert torch.equal(apply_affine(colors(), affine), colors().expand(2, -1, -1))


def test_one_product_equals_a_loop_over_images_and_gaussians() -> None:
    """Every Gaussian has its features times the matrix of the code; in float64."""
    model, plain = appearance(dtype=torch.float64), colors(dtype=torch.float64)
    got = apply_affine(plain, color_affine(model, model.codes))
    for i, code in enumerate(model.codes):
        matrix = ((code @ model.hidden).tanh() @ model.output).view(5, 6)
        for n, feature in enumerate(model.features):
            gain, offset = (feature @ matrix).split(3)
            expected = (plain[0, n] * (1 + gain) + offset).clamp(min=0)
            torch.testing.assert_close(got[i, n], expected, rtol=1e-12, atol=1e-12)


def test_colors_of_one_view_each_take_their_own_affine() -> None:
    """Colours may differ by view already, as harmonics make them."""
    model = appearance()
    views = torch.rand(3, 7, 3, generator=torch.Generator().manual_seed(2))
    affine = color_affine(model, model.codes)
    together = apply_affine(views, affine)
    for i in range(3):
        alone = apply_affine(views[i : i + 1], affine[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)


def test_colors_never_fall_below_zero() -> None:
    """A strong offset cannot make light negative."""
    model = appearance()
    assert apply_affine(colors(), color_affine(model, 50 * model.codes)).min() == 0


def test_identity_exposure_changes_nothing() -> None:
    """To the bit, so that switched off equals absent."""
    rgb = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(apply_exposure(rgb, identity_exposure(2, rgb)), rgb)


def test_exposure_mixes_channels_and_adds_a_level() -> None:
    """Each picture under its own affine, pixel by pixel."""
    rgb = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(3))
    exposure = appearance(2).exposure
    expected = torch.einsum("vij,vjhw->vihw", exposure[:, :, :3], rgb)
    expected = expected + exposure[:, :, 3, None, None]
    torch.testing.assert_close(apply_exposure(rgb, exposure), expected)


def test_affine_can_be_learnt() -> None:
    """Gradients reach every part of the model."""
    model = appearance(dtype=torch.float64)
    parts = [model.codes, model.features, model.hidden, model.output]
    for part in parts:
        part.requires_grad_()
    apply_affine(colors(dtype=torch.float64), color_affine(model, model.codes)).sum().backward()
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in parts)


def test_appearance_moves_whole(device: torch.device) -> None:
    """`to` takes every part along."""
    moved = appearance().to(device)
    assert {t.device.type for t in vars(moved).values()} == {device.type}
