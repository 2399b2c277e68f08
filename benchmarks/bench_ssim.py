"""Structural similarity and its gradient: the largest part of a fit's loss beside the rendering."""

import math

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from benchmarks import workloads
from benchmarks.harness import Measure, axis
from benchmarks.workloads import Scale
from rap.scene import Scene
from rap.splat.quality import fused_ssim_available, plain_ssim, ssim, ssim_error

TOLERANCE = 1e-5
"""Of the value; and of the gradient, whose error's norm is a share of its own, in random pictures.
"""
SMOOTH_TOLERANCE = 1e-4
"""Of the gradient in rendered pictures: the same window in float32 is 2e-5 to 7e-5 off there."""


@pytest.mark.parametrize("implementation", axis(["plain"], cuda=["fused"]))
@pytest.mark.parametrize("num_images", axis([1], full=[8]))
def bench_ssim(
    measure: Measure, device: torch.device, scale: Scale, scene: Scene,
    implementation: str, num_images: int,
) -> None:  # fmt: skip
    """Value and gradient are those of a dense window in float64, and of the plain one in noise."""
    if implementation == "fused":
        usable, reason = fused_ssim_available()
        if not usable:
            pytest.skip(reason)
    photos = workloads.photographs(scene, scale.render_height)
    photos = photos[torch.arange(num_images) % len(photos)] / 255
    noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(workloads.SEED))
    drawn = (photos + 0.1 * noise).clamp(0, 1)
    a, b = drawn.to(device).requires_grad_(), photos.to(device)
    likeness = ssim if implementation == "fused" else plain_ssim

    def step() -> tuple[Tensor, Tensor]:
        value = likeness(a, b)
        (gradient,) = torch.autograd.grad(value, a)
        return value.detach(), gradient

    result = measure(
        step, items=num_images, unit="images", clock="gpu", moves_bytes=4 * b.nbytes, replay=True
    )

    exact = drawn.to(device).double().requires_grad_()
    expected = dense_ssim(exact, b.double())
    (slope,) = torch.autograd.grad(expected, exact)
    value, gradient = (found.double() for found in result.value)
    off = abs(float(value) - float(expected.detach()))
    result.check(off < TOLERANCE, f"differs from float64 by {off:.1e}")
    off = float((gradient - slope).norm() / slope.norm())
    result.check(off < SMOOTH_TOLERANCE, f"the gradient differs from float64 by {off:.1e}")
    off = ssim_error(likeness, device, scale.render_height)
    result.check(off < TOLERANCE, f"differs from the plain one in float64 by {off:.1e} in noise")


def dense_ssim(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Wang et al. (2004) as written: an 11×11 window of σ = 1.5, zeros beyond the border."""
    values = [math.exp(-(k**2) / 4.5) for k in range(-5, 6)]
    weights = torch.tensor(values, dtype=a.dtype, device=a.device)
    window = torch.outer(weights, weights) / weights.sum() ** 2

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1)[:, None], window[None, None], padding=5)

    mean_a, mean_b = blur(a), blur(b)
    variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
    energy = (mean_a**2 + mean_b**2 + 0.01**2) * (variances + 0.03**2)
    return (likeness / energy).mean()
