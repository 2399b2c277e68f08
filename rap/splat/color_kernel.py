"""Colours of many Gaussians in many views by one Triton kernel; `colors.py` holds its plain twin.

Imported only where a GPU is used. Nothing of size (view, Gaussian) but the colours themselves is
written: harmonics, gains and offsets stay in registers.
"""

import importlib
from typing import Any, no_type_check

import torch
from jaxtyping import Float32
from torch import Tensor

from rap.splat import harmonics
from rap.splat.appearance import NUM_AFFINE, Appearance
from rap.splat.gaussians import Gaussians

triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")

_GAUSSIANS = 512
"""Per program: four neighbours in each of 128 threads, so that features load as one vector."""
_VIEWS = 8
"""Per program; the coefficients are read once for all of them."""
_WARPS = 4

_BASE = tl.constexpr(harmonics.BASE)
_ONE = tl.constexpr(harmonics.ONE)
_TWO_XY, _TWO_ZZ, _TWO_XX = (tl.constexpr(value) for value in harmonics.TWO)
_THREE_CUBIC, _THREE_XYZ, _THREE_XZZ, _THREE_ZZZ, _THREE_ZXX = (
    tl.constexpr(value) for value in harmonics.THREE
)
_SMALL = tl.constexpr(1e-12)


def fused_colors(
    gaussians: Gaussians,
    centres: Float32[Tensor, "v 3"],
    codes: Float32[Tensor, "v c"] | None,
    degree: int,
) -> Float32[Tensor, "v n 3"]:
    """Colours seen from camera centres, each view in the appearance of its code, at least 0."""
    num, num_views = gaussians.num, len(centres)
    out = torch.empty(num_views, num, 3, device=gaussians.means.device)
    features, matrices, num_features = out, out, 0
    if codes is not None and gaussians.appearance is not None:
        features = gaussians.appearance.features.mT.contiguous()
        matrices = _matrices(gaussians.appearance, codes)
        num_features = len(features)
    # one grid axis, so that the three channels of a block run together and share its lines
    grid = (3 * triton.cdiv(num, _GAUSSIANS), triton.cdiv(num_views, _VIEWS))
    with torch.cuda.device_of(out):
        _colors[grid](
            gaussians.means.contiguous(), gaussians.sh.contiguous(), centres.contiguous(),
            features, matrices, out, num, num_views,
            COEFFICIENTS=gaussians.sh.shape[1], DEGREE=degree, NUM_FEATURES=num_features,
            GAUSSIANS=_GAUSSIANS, VIEWS=_VIEWS, num_warps=_WARPS,
        )  # fmt: skip
    return out


def _matrices(appearance: Appearance, codes: Float32[Tensor, "v c"]) -> Float32[Tensor, "v f 6"]:
    """What turns features into gain minus one and offset, for each code."""
    flat = torch.tanh(codes @ appearance.hidden) @ appearance.output
    return flat.view(len(codes), -1, NUM_AFFINE).contiguous()


@triton.jit
@no_type_check  # Triton compiles the source itself; a checker must not wrap it
def _second_degree(row: tl.tensor, inside: tl.tensor) -> tuple[tl.tensor, ...]:
    k4 = tl.load(row + 12, mask=inside, other=0.0)
    k5 = tl.load(row + 15, mask=inside, other=0.0)
    k6 = tl.load(row + 18, mask=inside, other=0.0)
    k7 = tl.load(row + 21, mask=inside, other=0.0)
    k8 = tl.load(row + 24, mask=inside, other=0.0)
    return k4, k5, k6, k7, k8


@triton.jit
@no_type_check
def _third_degree(row: tl.tensor, inside: tl.tensor) -> tuple[tl.tensor, ...]:
    k9 = tl.load(row + 27, mask=inside, other=0.0)
    k10 = tl.load(row + 30, mask=inside, other=0.0)
    k11 = tl.load(row + 33, mask=inside, other=0.0)
    k12 = tl.load(row + 36, mask=inside, other=0.0)
    k13 = tl.load(row + 39, mask=inside, other=0.0)
    k14 = tl.load(row + 42, mask=inside, other=0.0)
    k15 = tl.load(row + 45, mask=inside, other=0.0)
    return k9, k10, k11, k12, k13, k14, k15


@triton.jit
@no_type_check
def _recolored(
    color: tl.tensor, features: tl.tensor, matrix: tl.tensor, index: tl.tensor, inside: tl.tensor,
    num: tl.tensor, NUM_FEATURES: tl.constexpr, GAUSSIANS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    gain = tl.zeros([GAUSSIANS], tl.float32)
    offset = tl.zeros([GAUSSIANS], tl.float32)
    for feature in tl.static_range(NUM_FEATURES):
        plane = features + feature * tl.cast(num, tl.int64)
        value = tl.load(plane + index, mask=inside, other=0.0)
        gain += value * tl.load(matrix + feature * 6)
        offset += value * tl.load(matrix + feature * 6 + 3)
    return color + color * gain + offset


@triton.jit
@no_type_check
def _colors(  # noqa: PLR0915 (one kernel: a statement for each load)
    means: tl.tensor, sh: tl.tensor, centres: tl.tensor, features: tl.tensor,
    matrices: tl.tensor, out: tl.tensor, num: tl.tensor, num_views: tl.tensor,
    COEFFICIENTS: tl.constexpr, DEGREE: tl.constexpr, NUM_FEATURES: tl.constexpr,
    GAUSSIANS: tl.constexpr, VIEWS: tl.constexpr,
) -> None:  # fmt: skip
    channel = tl.program_id(0) % 3
    index = (tl.program_id(0) // 3) * GAUSSIANS + tl.arange(0, GAUSSIANS)
    inside = index < num
    index = index.to(tl.int64)
    mean_x = tl.load(means + index * 3, mask=inside, other=0.0)
    mean_y = tl.load(means + index * 3 + 1, mask=inside, other=0.0)
    mean_z = tl.load(means + index * 3 + 2, mask=inside, other=0.0)
    row = sh + index * (COEFFICIENTS * 3) + channel
    constant = 0.5 + _BASE * tl.load(row, mask=inside, other=0.0)
    if DEGREE >= 1:
        k1 = tl.load(row + 3, mask=inside, other=0.0)
        k2 = tl.load(row + 6, mask=inside, other=0.0)
        k3 = tl.load(row + 9, mask=inside, other=0.0)
    if DEGREE >= 2:
        k4, k5, k6, k7, k8 = _second_degree(row, inside)
    if DEGREE >= 3:
        k9, k10, k11, k12, k13, k14, k15 = _third_degree(row, inside)
    first = tl.program_id(1) * VIEWS
    for view in range(first, tl.minimum(first + VIEWS, num_views)):
        color = constant
        if DEGREE >= 1:
            x = mean_x - tl.load(centres + view * 3)
            y = mean_y - tl.load(centres + view * 3 + 1)
            z = mean_z - tl.load(centres + view * 3 + 2)
            nearness = 1.0 / tl.maximum(tl.sqrt(x * x + y * y + z * z), _SMALL)
            x *= nearness
            y *= nearness
            z *= nearness
            color += _ONE * (k2 * z - k1 * y - k3 * x)
        if DEGREE >= 2:
            xx = x * x
            yy = y * y
            zz = z * z
            color += _TWO_XY * (k4 * x * y - k5 * y * z - k7 * x * z)
            color += _TWO_ZZ * k6 * (2.0 * zz - xx - yy) + _TWO_XX * k8 * (xx - yy)
        if DEGREE >= 3:
            color += _THREE_XYZ * k10 * x * y * z + _THREE_ZXX * k14 * z * (xx - yy)
            color -= _THREE_CUBIC * (k9 * y * (3.0 * xx - yy) + k15 * x * (xx - 3.0 * yy))
            color -= _THREE_XZZ * (k11 * y + k13 * x) * (4.0 * zz - xx - yy)
            color += _THREE_ZZZ * k12 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy)
        if NUM_FEATURES > 0:
            matrix = matrices + view * (NUM_FEATURES * 6) + channel
            color = _recolored(color, features, matrix, index, inside, num, NUM_FEATURES, GAUSSIANS)
        pixel = tl.cast(view, tl.int64) * num + index
        tl.store(out + pixel * 3 + channel, tl.maximum(color, 0.0), mask=inside)
