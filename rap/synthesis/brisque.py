"""BRISQUE, the blind image quality score of Mittal, Moorthy and Bovik (TIP 2012), in batches.

Every convention is that of the PyPI package `brisque` 0.2.0, whose trained parameters are used:
luminance of Rec. 709 (rounded as scikit-image does), 7×7 window of σ = 7/6 with zeros beyond the
border, second scale by OpenCV's bicubic at half size without antialiasing, and AGGD shapes solved
for, not picked from a grid.
"""

import math

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
_FLAT = 5e-7
"""What float32 cannot tell from a uniform patch; its sign would be noise, and signs are counted."""
_SMALLEST = 8
"""Pixels per side: below, the second scale is narrower than half a window."""


@torch.no_grad()
def brisque(images: Float[Tensor, "b 3 h w"], model: BrisqueModel) -> Float[Tensor, " b"]:
    """The score of each image in [0, 1], higher is worse; infinite for a picture of one colour.

    Runs on the images' device, where the model must be, without waiting for it. ValueError for
    images below 8×8.
    """
    if min(images.shape[-2:]) < _SMALLEST:
        height, width = images.shape[-2:]
        raise ValueError(f"BRISQUE of {width}x{height} images; accepted: at least 8x8")
    red, green, blue = images.float().unbind(1)
    gray = red * _LUMINANCE[0] + green * _LUMINANCE[1] + blue * _LUMINANCE[2]
    both = (gray, _halved(gray))
    features = torch.cat([_features(scale, model.table) for scale in both], dim=1)
    scaled = 2 * (features - model.low) / (model.high - model.low) - 1
    # differences, not a product of matrices: that would be rounded to TF32 where training allows it
    squares = torch.cdist(
        scaled, model.support, compute_mode="donot_use_mm_for_euclid_dist"
    ).square()
    kernel = torch.exp(-model.gamma * squares)
    scores = (kernel * model.coefficients).sum(dim=1) - model.rho
    return scores.float().nan_to_num(nan=torch.inf, posinf=torch.inf)


def _features(gray: Float[Tensor, "b h w"], table: ShapeTable) -> Float64[Tensor, "b 18"]:
    """Fits to the normalised luminances and to their products with four neighbours."""
    x = _normalised(gray)
    shape, _, left, right = _fit(x, table)
    features = [shape, (left + right) / 2]
    for product in (
        x[:, :, :-1] * x[:, :, 1:],
        x[:, :-1] * x[:, 1:],
        x[:, :-1, :-1] * x[:, 1:, 1:],
        x[:, 1:, :-1] * x[:, :-1, 1:],
    ):
        features += _fit(product, table)
    return torch.stack(features, dim=1)


def _normalised(gray: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Mean-subtracted, contrast-normalised luminances (MSCN), equation 1 of the paper."""
    mean, power = _blurred(torch.stack([gray, gray * gray]))
    deviation = (power - mean * mean).abs_().sqrt_()
    above = gray - mean
    above = torch.where(above.abs() > _FLAT, above, 0)
    return above / deviation.add_(_SOFTENING)


def _blurred(x: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n h w"]:
    """The Gaussian window, one axis after the other, as weighted sums of shifted images.

    Not a convolution by the library: cuDNN may round its input to TF32.
    """
    weights = [math.exp(-(k**2) / (2 * _SIGMA**2)) for k in range(-_RADIUS, _RADIUS + 1)]
    taps = [weight / math.fsum(weights) for weight in weights]
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, 0, _RADIUS, _RADIUS))
    x = sum_of_slices([padded[..., k : k + height, :] for k in range(len(taps))], taps)
    padded = F.pad(x, (_RADIUS, _RADIUS))
    return sum_of_slices([padded[..., k : k + width] for k in range(len(taps))], taps)


def _halved(gray: Float[Tensor, "b h w"]) -> Float[Tensor, "b h2 w2"]:
    """Half the size by four cubic taps per axis, the border repeated; halves rounded to even."""
    height, width = (round(size / 2) for size in gray.shape[-2:])
    padded = F.pad(gray, (1, 2, 1, 2), mode="replicate")
    rows = [padded[:, k : k + 2 * height : 2] for k in range(4)]
    x = sum_of_slices(rows, _HALVING)
    return sum_of_slices([x[..., k : k + 2 * width : 2] for k in range(4)], _HALVING)


def sum_of_slices(slices: list[Tensor], weights: "tuple[float, ...] | list[float]") -> Tensor:
    """sum_k weights_k slices_k."""
    total = slices[0] * weights[0]
    for piece, weight in zip(slices[1:], weights[1:], strict=True):
        total.add_(piece, alpha=weight)
    return total


def _fit(
    x: Float[Tensor, "b h w"], table: ShapeTable
) -> tuple[
    Float64[Tensor, " b"], Float64[Tensor, " b"], Float64[Tensor, " b"], Float64[Tensor, " b"]
]:
    """Asymmetric generalised Gaussian by moments: shape, mean, left and right mean square.

    Lasmar et al. 2009. Zeros count to the right.
    """
    num = x.shape[1] * x.shape[2]
    negative = x.clamp_max(0)
    dim = (1, 2)
    norm = torch.linalg.vector_norm
    num_left = norm(negative, 0, dim=dim).double()
    power_left = norm(negative, 2, dim=dim).double().square()
    power = norm(x, 2, dim=dim).double().square()
    size = norm(x, 1, dim=dim).double()
    left, right = power_left / num_left, (power - power_left) / (num - num_left)
    skew = (left / right).sqrt()
    ratio = size.square() / (num * power)
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    # the mean's factor Γ(2/a)/√(Γ(1/a)Γ(3/a)) is the root of the ratio that was solved for
    mean = (right.sqrt() - left.sqrt()) * ratio.sqrt()
    return _shape(ratio, table), mean, left, right


def _shape(ratio: Float64[Tensor, " b"], table: ShapeTable) -> Float64[Tensor, " b"]:
    """The shape with a ratio, between the table's entries by a straight line."""
    above = torch.searchsorted(table.ratios, ratio).clamp(1, len(table.ratios) - 1)
    low, high = table.ratios[above - 1], table.ratios[above]
    share = ((ratio - low) / (high - low)).clamp(0, 1)
    return torch.lerp(table.shapes[above - 1], table.shapes[above], share)
