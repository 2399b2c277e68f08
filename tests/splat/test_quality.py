"""PSNR and SSIM against their definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rap.splat import quality


def random_images(num: int, height: int = 23, width: int = 31, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num, 3, height, width, generator=generator, dtype=torch.float64)


def ssim_by_convolution(a: Tensor, b: Tensor) -> Tensor:
    """Wang et al. (2004) with a dense two-dimensional window and zeros beyond the border."""
    offset = torch.arange(11, dtype=a.dtype) - 5
    window = torch.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    window = (window / window.sum()).expand(3, 1, 11, 11)

    def blur(x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, window, padding=5, groups=3)

    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2
    cov = blur(a * b) - mu_a * mu_b
    numerator = (2 * mu_a * mu_b + 1e-4) * (2 * cov + 9e-4)
    return (numerator / ((mu_a**2 + mu_b**2 + 1e-4) * (var_a + var_b + 9e-4))).mean()


@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    noise=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_ssim_is_that_of_a_dense_convolution(
    height: int, width: int, noise: float, seed: int
) -> None:
    """Banded matrices compute the windowed moments exactly, for images of any size."""
    a = random_images(2, height, width, seed)
    b = (1 - noise) * a + noise * random_images(2, height, width, seed + 1)
    torch.testing.assert_close(quality.ssim(a, b), ssim_by_convolution(a, b))


def test_ssim_of_equal_images_is_one(device: torch.device) -> None:
    """Nothing is more alike than the same picture."""
    images = random_images(2).float().to(device)
    assert float(quality.ssim(images, images)) == pytest.approx(1, abs=1e-5)


def test_float32_is_enough_for_value_and_gradient(device: torch.device) -> None:
    """What runs on a device agrees with a dense window in float64, to 1e-5 (fused, where it is)."""
    b = random_images(2, 40, 56, seed=1)
    a = (b + 0.2 * random_images(2, 40, 56)).clamp(0, 1)
    exact = a.clone().requires_grad_()
    expected = ssim_by_convolution(exact, b)
    (slope,) = torch.autograd.grad(expected, exact)
    single = a.float().to(device).requires_grad_()
    value = quality.ssim(single, b.float().to(device))
    (gradient,) = torch.autograd.grad(value, single)
    assert abs(value.item() - expected.item()) < 1e-5
    assert float((gradient.cpu().double() - slope).norm() / slope.norm()) < 1e-5


def test_ssim_is_differentiable() -> None:
    """Its gradient in the first image is that of finite differences."""
    a, b = random_images(1, 5, 6), random_images(1, 5, 6, seed=1)
    assert torch.autograd.gradcheck(quality.ssim, (a.requires_grad_(), b), atol=1e-7)


@pytest.mark.cuda
@pytest.mark.parametrize(("height", "width"), [(120, 160), (37, 53)])
def test_fused_ssim_equals_the_plain_one(height: int, width: int) -> None:
    """Where fused-ssim is used, value and gradient are those of the plain twin, to 1e-5."""
    usable, reason = quality.fused_ssim_available()
    if not usable:
        pytest.skip(reason)
    b = random_images(2, height, width, seed=1).float().cuda()
    noise = random_images(2, height, width).float().cuda() - 0.5
    a = (b + 0.2 * noise).clamp(0, 1).requires_grad_()
    fused, plain = quality.ssim(a, b), quality.plain_ssim(a, b)
    (fused_gradient,) = torch.autograd.grad(fused, a)
    (plain_gradient,) = torch.autograd.grad(plain, a)
    assert abs(fused.item() - plain.item()) < 1e-5
    assert float((fused_gradient - plain_gradient).norm() / plain_gradient.norm()) < 1e-5


@pytest.mark.parametrize("kind", ["right", "value", "gradient", "not a number"])
def test_a_wrong_ssim_is_told_from_a_right_one(device: torch.device, kind: str) -> None:
    """Where fused-ssim is tried, value and gradient count, each to 1e-5, and also without grad."""

    def likeness(a: Tensor, b: Tensor) -> Tensor:
        value = quality.plain_ssim(a, b)
        if kind == "value":
            return value + 2e-5
        if kind == "gradient":
            return value + 2e-5 * (value - value.detach())
        return value * torch.nan if kind == "not a number" else value

    with torch.inference_mode():
        off = quality.ssim_error(likeness, device)
    assert (off <= 1e-5) == (kind == "right")


def test_fused_ssim_without_cuda_says_why() -> None:
    """The reason is for `rap doctor`."""
    if torch.cuda.is_available():
        pytest.skip("needs a machine without an NVIDIA GPU")
    assert quality.fused_ssim_available() == (False, "torch sees no CUDA device")


def test_psnr_counts_each_image_alone(device: torch.device) -> None:
    """An error of 0.1 everywhere is 20 dB, one of 0.01 is 40 dB."""
    images = torch.zeros(2, 3, 4, 5, device=device)
    other = torch.tensor([0.1, 0.01], device=device).view(2, 1, 1, 1).expand_as(images)
    assert quality.psnr(images, other).tolist() == pytest.approx([20, 40], abs=1e-4)


def affine_psnr(rendered: Tensor, photos: Tensor) -> Tensor:
    return quality.psnr(quality.after_affine(rendered, photos), photos)


@given(seed=st.integers(0, 99))
def test_affine_psnr_ignores_exposure_and_white_balance(seed: int) -> None:
    """A colour map of the whole picture costs nothing, noise still does, and it never hurts."""
    photos = random_images(2, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    mix = torch.rand(3, 3, generator=generator, dtype=torch.float64) + torch.eye(3)
    mapped = torch.einsum("ij,bjhw->bihw", mix, photos) + 0.1
    assert affine_psnr(mapped, photos).min() > 60
    noisy = photos + 0.1 * (random_images(2, seed=seed + 1) - 0.5)
    assert affine_psnr(noisy, photos).max() < 35
    assert (affine_psnr(noisy, photos) >= quality.psnr(noisy, photos)).all()


def test_affine_psnr_of_a_plain_picture_is_finite() -> None:
    """One colour everywhere leaves the map undetermined, not the score."""
    black = torch.zeros(1, 3, 8, 8)
    assert affine_psnr(black, random_images(1, 8, 8).float()).isfinite().all()


def test_what_a_mask_leaves_out_does_not_score() -> None:
    """Whatever is painted there, before and after a colour map; a mask of all leaves nothing."""
    photos, noise = random_images(3), random_images(3, seed=1)
    rendered = 0.6 * photos + 0.1 + 0.05 * (noise - 0.5)
    mask = torch.ones(3, 23, 31, dtype=torch.bool)
    mask[0, :, 10:] = False
    mask[2] = False
    painted = torch.where(mask[:, None], photos, noise)
    for score in (quality.psnr, quality.ssim_each):
        found = [
            torch.stack([score(a, images, mask), score(b, images, mask)])
            for images in (photos, painted)
            for a, b in [(rendered, quality.after_affine(rendered, images, mask))]
        ]
        assert torch.equal(found[0][:, :2], found[1][:, :2])
        assert bool((found[0][1, :2] > found[0][0, :2]).all())
        assert bool(found[0][:, 2].isnan().all())
        torch.testing.assert_close(found[0][0, 1], score(rendered, photos)[1])
    left = rendered[:1, :, :, :10], photos[:1, :, :, :10]
    torch.testing.assert_close(quality.psnr(rendered, photos, mask)[:1], quality.psnr(*left))
    torch.testing.assert_close(
        quality.ssim_each(rendered, photos, mask)[:1], quality.ssim_each(*left)
    )


def test_ssim_of_each_is_that_of_one_alone(device: torch.device) -> None:
    """Their mean is that of the batch; with a mask that leaves nothing out, too."""
    a, b = random_images(3).float().to(device), random_images(3, seed=1).float().to(device)
    b = 0.5 * (a + b)
    each = quality.ssim_each(a, b)
    assert float(each.mean()) == pytest.approx(float(quality.ssim(a, b)), abs=1e-5)
    all_count = torch.ones(3, 23, 31, dtype=torch.bool, device=device)
    torch.testing.assert_close(quality.ssim_each(a, b, all_count), each, atol=1e-5, rtol=0)
