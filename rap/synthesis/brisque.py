"""BRISQUE, the blind image quality score of Mittal, Moorthy and Bovik (TIP 2012), in batches.

Every convention is that of the PyPI package `brisque` 0.2.0, whose trained parameters are used:
luminance of Rec. 709 (rounded as scikit-image does), 7×7 window of σ = 7/6 with zeros beyond the
border, second scale by OpenCV's bicubic at half size without antialiasing, and AGGD shapes solved
for, not picked from a grid.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

from rap.synthesis.brisque_model import BrisqueModel, ShapeTable

_LUMINANCE = (0.2125, 0.7154, 0.0721)
_RADIUS, _SIGMA = 3, 7 / 6
_SOFTENING = 1 / 255
_HALVING = (-0.09375, 0.59375, 0.59375, -0.09375)
"""Keys' cubic with a = -0.75 at the middle between two pixels."""
_UPWARD = 1e-12
"""Signs are counted, of flat patches too: the package's rounding leaves white a little positive."""
_MAPS = 5
"""Per scale: normalised luminances and their products with four neighbours."""
_SMALLEST = 8
"""Pixels per side: below, the second scale is narrower than half a window."""


@torch.no_grad()
def brisque(images: Float[Tensor, "b 3 h w"], model: BrisqueModel) -> Float[Tensor, " b"]:
    """The score of each image in [0, 1], higher is worse; infinite for a picture of one colour.

    Runs on the images' device, where the model must be, without waiting for it; in float64 for
    images in float64, else in float32. ValueError for images below 8×8.
    """
    if min(images.shape[-2:]) < _SMALLEST:
        height, width = images.shape[-2:]
        raise ValueError(f"BRISQUE of {width}x{height} images; accepted: at least 8x8")
    floats = torch.promote_types(images.dtype, torch.float32)
    red, green, blue = images.to(floats).unbind(1)
    gray = red * _LUMINANCE[0] + green * _LUMINANCE[1] + blue * _LUMINANCE[2]
    moments = torch.stack([_moments(x) for scale in (gray, _halved(gray)) for x in _maps(scale)])
    scaled = 2 * (_features(moments, model.table) - model.low) / (model.high - model.low) - 1
    # differences, not a product of matrices: that would be rounded to TF32 where training allows it
    squares = torch.cdist(
        scaled, model.support, compute_mode="donot_use_mm_for_euclid_dist"
    ).square()
    kernel = torch.exp(-model.gamma * squares)
    scores = (kernel * model.coefficients).sum(dim=1) - model.rho
    return scores.to(floats).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _maps(gray: Float[Tensor, "b h w"]) -> Iterator[Float[Tensor, "b _ _"]]:
    """The normalised luminances, then their products with four neighbours."""
    x = _normalised(gray)
    yield x
    yield x[:, :, :-1] * x[:, :, 1:]
    yield x[:, :-1] * x[:, 1:]
    yield x[:, :-1, :-1] * x[:, 1:, 1:]
    yield x[:, 1:, :-1] * x[:, :-1, 1:]


def _normalised(gray: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Mean-subtracted, contrast-normalised luminances (MSCN), equation 1 of the paper.

    With d = x - blur(x) the variance blur(x²) - blur(x)² is d(2x - d) - (x² - blur(x²)): exactly 0
    where the picture is flat, and without the cancellation that float32 does not survive.
    """
    detail, power_detail = _detail(torch.stack([gray, gray * gray]))
    deviation = ((2 * gray - detail) * detail - power_detail).abs_().sqrt_()
    return (detail + _UPWARD * gray) / deviation.add_(_SOFTENING)


def _detail(x: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n h w"]:
    """What the Gaussian window takes away, x - blur(x), one axis after the other."""
    height, width = x.shape[-2:]
    weights = _step_weights()
    steps = F.pad(x, (_RADIUS, _RADIUS)).diff(dim=-1)
    pieces = [steps[..., k : k + width] for k in range(len(weights))]
    along_rows = _weighted(pieces, weights)
    steps = F.pad(x - along_rows, (0, 0, _RADIUS, _RADIUS)).diff(dim=-2)
    pieces = [steps[..., k : k + height, :] for k in range(len(weights))]
    return along_rows.add_(_weighted(pieces, weights))


@cache
def _step_weights() -> tuple[float, ...]:
    """x - blur(x) as a weighted sum of the six differences between neighbours in the window."""
    weights = [math.exp(-(k**2) / (2 * _SIGMA**2)) for k in range(_RADIUS + 1)]
    total = 2 * math.fsum(weights) - weights[0]
    tails = [math.fsum(weights[k:]) / total for k in range(_RADIUS, 0, -1)]
    return (*tails, *(-tail for tail in reversed(tails)))


def _halved(gray: Float[Tensor, "b h w"]) -> Float[Tensor, "b h2 w2"]:
    """Half the size by four cubic taps per axis, the border repeated; halves rounded to even."""
    height, width = (round(size / 2) for size in gray.shape[-2:])
    padded = F.pad(gray, (1, 2, 1, 2), mode="replicate")
    rows = [padded[:, k : k + 2 * height : 2] for k in range(4)]
    x = _weighted(rows, _HALVING)
    return _weighted([x[..., k : k + 2 * width : 2] for k in range(4)], _HALVING)


def _weighted(
    slices: Sequence[Float[Tensor, "*n"]], weights: Sequence[float]
) -> Float[Tensor, "*n"]:
    """sum_k weights_k slices_k; not the library's convolution, which may round to TF32."""
    total = slices[0] * weights[0]
    for piece, weight in zip(slices[1:], weights[1:], strict=True):
        total.add_(piece, alpha=weight)
    return total


def _moments(x: Float[Tensor, "b h w"]) -> Float64[Tensor, "4 b"]:
    """Means over the pixels of [x < 0], |x|, x² and x² where x < 0."""
    flat = x.flatten(1)
    negative = flat.clamp_max(0)
    norm = torch.linalg.vector_norm
    sums = [
        norm(negative, 0, dim=1), norm(flat, 1, dim=1),
        norm(flat, 2, dim=1).square(), norm(negative, 2, dim=1).square(),
    ]  # fmt: skip
    return torch.stack(sums).double() / flat.shape[1]


def _features(moments: Float64[Tensor, "10 4 b"], table: ShapeTable) -> Float64[Tensor, "b 36"]:
    """Asymmetric generalised Gaussians with these moments (Lasmar et al. 2009), as features.

    Of the luminances shape and mean variance, of the products shape, mean, and the variances of
    either side; zeros count to the right.
    """
    share_left, size, power, power_left = moments.unbind(1)
    left, right = power_left / share_left, (power - power_left) / (1 - share_left)
    skew = (left / right).sqrt()
    ratio = size.square() / power * (skew**3 + 1) * (skew + 1) / (skew**2 + 1).square()
    shape = _shape(ratio, table)
    # the mean's factor Γ(2/a)/√(Γ(1/a)Γ(3/a)) is the root of the ratio that was solved for
    mean = (right.sqrt() - left.sqrt()) * ratio.sqrt()
    variance = (left + right) / 2
    rows = []
    for scale in (0, _MAPS):
        rows += [shape[scale], variance[scale]]
        for k in range(scale + 1, scale + _MAPS):
            rows += [shape[k], mean[k], left[k], right[k]]
    return torch.stack(rows, dim=1)


def _shape(ratio: Float64[Tensor, "m b"], table: ShapeTable) -> Float64[Tensor, "m b"]:
    """The shape with a ratio, between the table's entries by a straight line."""
    above = torch.searchsorted(table.ratios, ratio).clamp(1, len(table.ratios) - 1)
    low, high = table.ratios[above - 1], table.ratios[above]
    share = ((ratio - low) / (high - low)).clamp(0, 1)
    return torch.lerp(table.shapes[above - 1], table.shapes[above], share)
