"""Projection of many Gaussians into many views by one Triton kernel, without gradients.

The rules are gsplat's. What it writes is made for `blend_kernel.py`: all that a Gaussian is in a
view lies in one sector of memory, and the box in which it is listed covers just the tiles in which
a pixel's centre can reach alpha 1/255.
"""

import importlib
import math
from typing import Any, no_type_check

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from rap.camera import Camera
from rap.splat import reference
from rap.splat.gaussians import Gaussians

triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")

_GAUSSIANS = 128
"""Per program, one in a thread."""
_VIEWS = 8
"""Per program; the Gaussians are read once for all of them."""
_NEAR = tl.constexpr(reference.NEAR_M)
_BLUR = tl.constexpr(reference.BLUR_PX2)
_FAINTEST = tl.constexpr(math.log2(reference.MIN_ALPHA))
_LN_4 = tl.constexpr(2 * math.log(2))
_HALF_LOG2_E = tl.constexpr(0.5 * math.log2(math.e))
_SLACK_SLOPE = tl.constexpr(0.15)
"""Of the image's width: how far beside the picture the projection is linearised truly."""
_EDGE_PX = tl.constexpr(1e-3)
_MAX_HALF = tl.constexpr(65504.0)


def project(
    gaussians: Gaussians,
    colors: Float32[Tensor, "#v n 3"],
    camera: Camera,
    camera_from_world: Float32[Tensor, "v 4 4"],
    antialiased: bool,
    radius_clip_px: float,
    tile: tuple[int, int],
) -> tuple[
    Int32[Tensor, "v n 8"], Float32[Tensor, "v n 2"], Int32[Tensor, "v n 2"], Float32[Tensor, "v n"]
]:
    """Records for `blend_records`, and for gsplat's lists: middles and radii of boxes, depths.

    A record holds the mean, the form that is subtracted from log2 of the opacity, that, and the
    colour in three halves. Boxes are given as for square tiles of two pixels, so that a `tile` may
    have any number of pixels in x and in y. Where a radius is 0 nothing is seen, and nothing else
    is written.
    """
    num, num_views = gaussians.num, len(camera_from_world)
    shape, device = (num_views, num), gaussians.means.device
    records = torch.empty(*shape, 8, dtype=torch.int32, device=device)
    middles = torch.empty(*shape, 2, device=device)
    radii = torch.empty(*shape, 2, dtype=torch.int32, device=device)
    depths = torch.empty(shape, device=device)
    grid = (triton.cdiv(num, _GAUSSIANS), triton.cdiv(num_views, _VIEWS))
    with torch.cuda.device_of(records):
        _project[grid](
            gaussians.means.contiguous(), gaussians.quats.contiguous(),
            gaussians.scales.contiguous(), gaussians.opacities.contiguous(), colors.contiguous(),
            camera_from_world.contiguous(), records, middles, radii, depths,
            num, num_views, camera.width, camera.height,
            float(camera.fx), float(camera.fy), float(camera.cx), float(camera.cy),
            float(radius_clip_px), SHARED=len(colors) < num_views, ANTIALIASED=antialiased,
            TILE_WIDTH=tile[0], TILE_HEIGHT=tile[1], GAUSSIANS=_GAUSSIANS, VIEWS=_VIEWS,
            num_warps=_GAUSSIANS // 32,
        )  # fmt: skip
    return records, middles, radii, depths


@triton.jit
@no_type_check  # Triton compiles the source itself; a checker must not wrap it
def _factor(
    quats: tl.tensor, scales: tl.tensor, index: tl.tensor, inside: tl.tensor
) -> tuple[tl.tensor, ...]:
    """Rotation times scale, row by row: the covariance in the world is its square."""
    w = tl.load(quats + index * 4, mask=inside, other=1.0)
    x = tl.load(quats + index * 4 + 1, mask=inside, other=0.0)
    y = tl.load(quats + index * 4 + 2, mask=inside, other=0.0)
    z = tl.load(quats + index * 4 + 3, mask=inside, other=0.0)
    short = 1.0 / tl.sqrt(w * w + x * x + y * y + z * z)
    w *= short
    x *= short
    y *= short
    z *= short
    s0 = tl.load(scales + index * 3, mask=inside, other=1.0)
    s1 = tl.load(scales + index * 3 + 1, mask=inside, other=1.0)
    s2 = tl.load(scales + index * 3 + 2, mask=inside, other=1.0)
    return (
        (1 - 2 * (y * y + z * z)) * s0, 2 * (x * y - w * z) * s1, 2 * (x * z + w * y) * s2,
        2 * (x * y + w * z) * s0, (1 - 2 * (x * x + z * z)) * s1, 2 * (y * z - w * x) * s2,
        2 * (x * z - w * y) * s0, 2 * (y * z + w * x) * s1, (1 - 2 * (x * x + y * y)) * s2,
    )  # fmt: skip


@triton.jit
@no_type_check
def _row(
    pose: tl.tensor, factor: tl.tuple, x: tl.tensor, y: tl.tensor, z: tl.tensor
) -> tuple[tl.tensor, ...]:
    """A row of the factor as the camera sees it, and that coordinate of the mean."""
    p0 = tl.load(pose)
    p1 = tl.load(pose + 1)
    p2 = tl.load(pose + 2)
    return (
        p0 * factor[0] + p1 * factor[3] + p2 * factor[6],
        p0 * factor[1] + p1 * factor[4] + p2 * factor[7],
        p0 * factor[2] + p1 * factor[5] + p2 * factor[8],
        p0 * x + p1 * y + p2 * z + tl.load(pose + 3),
    )


@triton.jit
@no_type_check
def _flattened(
    row: tl.tuple, depth_row: tl.tuple, focal: tl.tensor, middle: tl.tensor, size: tl.tensor
) -> tuple[tl.tensor, ...]:
    """That row of the factor in pixels, and of the mean. Slopes far outside are not believed."""
    nearness = 1.0 / depth_row[3]
    slope = row[3] * nearness
    low = -(middle + _SLACK_SLOPE * size) / focal
    high = (size - middle + _SLACK_SLOPE * size) / focal
    limited = tl.minimum(tl.maximum(slope, low), high)
    scale = focal * nearness
    return (
        (row[0] - limited * depth_row[0]) * scale, (row[1] - limited * depth_row[1]) * scale,
        (row[2] - limited * depth_row[2]) * scale, focal * slope + middle,
    )  # fmt: skip


@triton.jit
@no_type_check
def _tiles(
    centre: tl.tensor, reach: tl.tensor, size: tl.tensor, TILE: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """First tile with a pixel centre within reach, and the one after the last."""
    first = tl.ceil(centre - reach - (0.5 + _EDGE_PX))
    last = tl.floor(centre + reach - (0.5 - _EDGE_PX))
    first = tl.minimum(tl.maximum(first, 0.0), size).to(tl.int32)
    last = tl.minimum(tl.maximum(last, -1.0), size - 1.0).to(tl.int32)
    return first // TILE, tl.where(first <= last, last // TILE + 1, first // TILE)


@triton.jit
@no_type_check
def _bits(value: tl.tensor) -> tl.tensor:
    return value.to(tl.int32, bitcast=True)


@triton.jit
@no_type_check
def _halves(low: tl.tensor, high: tl.tensor) -> tl.tensor:
    low = tl.minimum(low, _MAX_HALF).to(tl.float16).to(tl.uint16, bitcast=True).to(tl.uint32)
    high = tl.minimum(high, _MAX_HALF).to(tl.float16).to(tl.uint16, bitcast=True).to(tl.uint32)
    return (low | (high << 16)).to(tl.int32, bitcast=True)


@triton.jit
@no_type_check
def _store_two(
    first: tl.tensor, row: tl.tensor, inside: tl.tensor, a: tl.tensor, b: tl.tensor
) -> None:
    column = tl.arange(0, 2)
    tl.store(first + row[:, None] * 2 + column[None, :], tl.join(a, b), mask=inside[:, None])


@triton.jit
@no_type_check
def _store_four(
    first: tl.tensor, row: tl.tensor, inside: tl.tensor,
    a: tl.tensor, b: tl.tensor, c: tl.tensor, d: tl.tensor, GAUSSIANS: tl.constexpr,
) -> None:  # fmt: skip
    """Neighbours in memory, stored as one vector."""
    four = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [GAUSSIANS, 4])
    column = tl.arange(0, 4)
    tl.store(first + row[:, None] * 8 + column[None, :], four, mask=inside[:, None])


@triton.jit
@no_type_check
def _project(
    means: tl.tensor, quats: tl.tensor, scales: tl.tensor, opacities: tl.tensor,
    colors: tl.tensor, poses: tl.tensor, records: tl.tensor, middles: tl.tensor,
    radii: tl.tensor, depths: tl.tensor, num: tl.tensor, num_views: tl.tensor,
    width: tl.tensor, height: tl.tensor, fx: tl.tensor, fy: tl.tensor, cx: tl.tensor,
    cy: tl.tensor, clip: tl.tensor,
    SHARED: tl.constexpr, ANTIALIASED: tl.constexpr, TILE_WIDTH: tl.constexpr,
    TILE_HEIGHT: tl.constexpr, GAUSSIANS: tl.constexpr, VIEWS: tl.constexpr,
) -> None:  # fmt: skip
    index = tl.program_id(0) * GAUSSIANS + tl.arange(0, GAUSSIANS)
    inside = index < num
    index = index.to(tl.int64)
    x = tl.load(means + index * 3, mask=inside, other=0.0)
    y = tl.load(means + index * 3 + 1, mask=inside, other=0.0)
    z = tl.load(means + index * 3 + 2, mask=inside, other=0.0)
    factor = _factor(quats, scales, index, inside)
    opacity = tl.load(opacities + index, mask=inside, other=0.0)
    view = tl.program_id(1) * VIEWS
    end = tl.minimum(view + VIEWS, num_views)
    while view < end:
        pose = poses + view * 16
        depth_row = _row(pose + 8, factor, x, y, z)
        depth = depth_row[3]
        across = _flattened(_row(pose, factor, x, y, z), depth_row, fx, cx, width)
        down = _flattened(_row(pose + 4, factor, x, y, z), depth_row, fy, cy, height)
        row = tl.cast(view, tl.int64) * num + index
        color = index if SHARED else row
        seen, form = _footprint(across, down, opacity, clip, ANTIALIASED)
        seen &= inside & (depth >= _NEAR)
        left, right = _tiles(across[3], form[4], width, TILE_WIDTH)
        top, bottom = _tiles(down[3], form[5], height, TILE_HEIGHT)
        seen &= (left < right) & (top < bottom)
        _store_two(
            radii, row, inside, tl.where(seen, right - left, 0), tl.where(seen, bottom - top, 0)
        )
        _store_two(middles, row, seen, (right + left).to(tl.float32), (bottom + top).to(tl.float32))
        tl.store(depths + row, depth, mask=seen)
        red = tl.load(colors + color * 3, mask=seen, other=0.0)
        green = tl.load(colors + color * 3 + 1, mask=seen, other=0.0)
        blue = tl.load(colors + color * 3 + 2, mask=seen, other=0.0)
        _store_four(
            records, row, seen, _bits(across[3]), _bits(down[3]), _bits(form[0]), _bits(form[1]),
            GAUSSIANS,
        )  # fmt: skip
        _store_four(
            records + 4, row, seen, _bits(form[2]), _bits(form[3]), _halves(red, green),
            _halves(blue, blue), GAUSSIANS,
        )  # fmt: skip
        view += 1


@triton.jit
@no_type_check
def _footprint(
    across: tl.tuple, down: tl.tuple, opacity: tl.tensor, clip: tl.tensor,
    ANTIALIASED: tl.constexpr,
) -> tuple[tl.tensor, tl.tuple]:  # fmt: skip
    """Whether it is bright and large enough; its form, log2 of its opacity, reach in x and y.

    Lagrange's identity gives the determinant without cancellation.
    """
    xx = across[0] * across[0] + across[1] * across[1] + across[2] * across[2]
    xy = across[0] * down[0] + across[1] * down[1] + across[2] * down[2]
    yy = down[0] * down[0] + down[1] * down[1] + down[2] * down[2]
    n0 = across[1] * down[2] - across[2] * down[1]
    n1 = across[2] * down[0] - across[0] * down[2]
    n2 = across[0] * down[1] - across[1] * down[0]
    sharp = n0 * n0 + n1 * n1 + n2 * n2
    determinant = sharp + _BLUR * (xx + yy) + _BLUR * _BLUR
    if ANTIALIASED:
        opacity = opacity * tl.sqrt(sharp / determinant)
    peak = tl.log2(opacity)
    deviations = tl.sqrt(tl.maximum(_LN_4 * (peak - _FAINTEST), 0.0))
    xx += _BLUR
    yy += _BLUR
    reach_x = deviations * tl.sqrt(xx)
    reach_y = deviations * tl.sqrt(yy)
    # not true of what is not a number, either
    seen = (peak >= _FAINTEST) & (determinant > 0)
    seen &= (tl.ceil(reach_x) > clip) | (tl.ceil(reach_y) > clip)
    scale = _HALF_LOG2_E / determinant
    return seen, (yy * scale, -2.0 * xy * scale, xx * scale, peak, reach_x, reach_y)
