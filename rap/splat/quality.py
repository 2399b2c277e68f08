"""How alike two pictures are: PSNR and SSIM of images in [0, 1]."""

import importlib
import warnings
from collections.abc import Callable
from functools import cache, partial
from importlib import util

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rap.splat.appearance import apply_exposure
from rap.splat.exposure import solved_exposure

_WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2
_PROBE_TOLERANCE = 1e-5


def psnr(
    a: Float[Tensor, "b c h w"],
    b: Float[Tensor, "b c h w"],
    mask: Bool[Tensor, "b h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each image in dB; inf for equal images.

    Of the pixels where `mask` is true; NaN where it is so nowhere.
    """
    return -10 * torch.log10(_mean_counted((a - b).square(), mask))


def after_affine(
    rendered: Float[Tensor, "b 3 h w"],
    photos: Float[Tensor, "b 3 h w"],
    mask: Bool[Tensor, "b h w"] | None = None,
) -> Float[Tensor, "b 3 h w"]:
    """Each rendering after the 3×4 colour map that fits its photograph best, where `mask` is true.

    Exposure and white balance that differ between photographs no longer count. The map is fitted
    to the very pixels that are scored, so what these score is an upper bound, to be named as such.
    """
    # the ridge guards against pictures of a single colour
    exposure = solved_exposure(rendered.double(), photos.double(), 1e-9, mask)
    return apply_exposure(rendered, exposure.to(rendered))


def ssim(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Mean structural similarity of a batch (Wang et al. 2004), differentiable in `a` only.

    11×11 Gaussian window with sigma 1.5, zeros beyond the border, as in 3DGS. fused-ssim computes
    the same value where it is installed and the images are float32 on CUDA.
    """
    if a.is_cuda and a.dtype == torch.float32 and fused_ssim_available()[0]:
        fused_ssim = importlib.import_module("fused_ssim").fused_ssim
        return fused_ssim(a.contiguous(), b.contiguous(), train=a.requires_grad)
    return plain_ssim(a, b.detach())


def ssim_each(
    a: Float[Tensor, "b c h w"],
    b: Float[Tensor, "b c h w"],
    mask: Bool[Tensor, "b h w"] | None = None,
) -> Float[Tensor, " b"]:
    """`ssim` of each image, of the pixels where `mask` is true; NaN where it is so nowhere.

    What the mask leaves out is to a window as what lies beyond the border: zero in both.
    """
    if mask is None:
        return torch.stack([ssim(*pair) for pair in zip(a.split(1), b.split(1), strict=True)])
    return _mean_counted(_likeness(a * mask[:, None], b * mask[:, None]), mask)


def plain_ssim(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """`ssim` by torch's own operations: the twin of fused-ssim."""
    return _likeness(a, b).mean()


def _mean_counted(
    values: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b h w"] | None
) -> Float[Tensor, " b"]:
    if mask is None:
        return values.mean(dim=(1, 2, 3))
    return (values.mean(1) * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2))


def _likeness(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Of every pixel's surroundings."""
    moments = torch.stack([a, b, a * a, b * b, a * b])
    height, width = a.shape[-2:]
    blurred = _blur_matrix(height, a) @ moments @ _blur_matrix(width, a)
    mean_a, mean_b, aa, bb, ab = blurred
    var_a, var_b = aa - mean_a.square(), bb - mean_b.square()
    covariance = ab - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    energy = (mean_a.square() + mean_b.square() + _C1) * (var_a + var_b + _C2)
    return likeness / energy


def _blur_matrix(size: int, like: Float[Tensor, "..."]) -> Float[Tensor, "{size} {size}"]:
    """The window along one axis as a banded matrix: on a CPU 10x faster than a convolution."""
    position = torch.arange(size, device=like.device, dtype=like.dtype)
    offset = position[:, None] - position
    window = torch.exp(-offset.square() / (2 * _SIGMA**2)) * (offset.abs() <= _WINDOW // 2)
    inside = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    return window / float(torch.exp(-inside.square() / (2 * _SIGMA**2)).sum())


@cache
def fused_ssim_available() -> tuple[bool, str]:
    """Whether fused-ssim computes here what `plain_ssim` does, or the reason and the fix.

    It is tried, not only imported: a build without code for this GPU imports well. Value and
    gradient must be right to 1e-5.
    """
    if not torch.cuda.is_available():
        return False, "torch sees no CUDA device"
    if util.find_spec("fused_ssim") is None:
        return False, "fused-ssim is not installed; `make` installs it where nvcc is found"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fused_ssim = importlib.import_module("fused_ssim").fused_ssim
        off = ssim_error(partial(fused_ssim, train=True), torch.device("cuda"))
    except (ImportError, NameError, RuntimeError, OSError) as error:
        return False, (
            f"fused-ssim does not run ({str(error).strip().splitlines()[0]}); build it again on"
            f" this machine for torch {torch.__version__}"
        )
    if not off <= _PROBE_TOLERANCE:
        return False, f"fused-ssim is {off:.1e} off in value or gradient; build it again"
    return True, "fused-ssim, checked against the plain one"


def ssim_error(
    likeness: Callable[[Tensor, Tensor], Tensor], device: torch.device, size: int = 32
) -> float:
    """How far SSIM in float32 is from `plain_ssim` in float64, for random pictures.

    The larger of the value's error and the gradient's, whose norm is a share of the right one's.
    In smooth pictures float32 itself is worse: variances are differences of large numbers there.
    """
    with torch.inference_mode(False), torch.enable_grad():
        generator = torch.Generator().manual_seed(0)
        a, b = torch.rand(2, 1, 3, size, size, generator=generator).to(device)
        single, exact = a.clone().requires_grad_(), a.double().requires_grad_()
        value, expected = likeness(single, b), plain_ssim(exact, b.double())
        (gradient,) = torch.autograd.grad(value, single)
        (slope,) = torch.autograd.grad(expected, exact)
    off = (gradient.double() - slope).norm() / slope.norm()
    return float(torch.maximum(off, (value.double() - expected).abs()).detach())
