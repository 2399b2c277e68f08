"""How well one pose, or two, explain what frames show: points, a depth map, a photograph.

Everything is plain arithmetic on a few thousand samples; photographs come as thumbnails.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from PIL import Image
from torch import Tensor
from torch.nn import functional

from rap import geometry
from rap.camera import Camera
from rap.scene import DataError, Frame

_MIN_IN_VIEW = 30
_DEPTH_SAMPLES = 2500
_UNKNOWN_DEPTH = 65535
_PATCH_PX = 8
_MIN_TEXTURE = 4.0
_MIN_COVER = 0.9
_MIN_OVERLAP = 0.25
# Plane depths in units of the baseline; the last stands for infinity.
_SWEEP = (2.0, 3.0, 4.5, 7.0, 10.0, 15.0, 25.0, 50.0, 1e5)


def depth_map(frame: Frame) -> Float64[Tensor, "h w"]:
    """Depth in metres, 0 where unknown (0 and 65535 in files).

    `DataError` where a file cannot be decoded or is not of one channel of 16 bits.
    """
    if not isinstance(frame.depth, Path):
        return torch.from_numpy(np.asarray(frame.depth, dtype=np.float64))
    try:
        with Image.open(frame.depth) as file:
            mode, values = file.mode, np.array(file)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{frame.depth}: cannot be decoded: {error}; copy it again") from error
    if not mode.startswith("I"):
        raise DataError(
            f"{frame.depth}: image mode {mode}; a depth map has one channel of 16 bits, millimetres"
        )
    millimetres = torch.from_numpy(values.astype(np.float64))
    return torch.where(millimetres < _UNKNOWN_DEPTH, millimetres / 1000, 0.0)


def points_explained(
    camera: Camera,
    image: Float[Tensor, "3 h w"],
    points_camera: Float64[Tensor, "n 3"],
    rgb: Float[Tensor, "n 3"],
) -> float:
    """Share of the points in view times the correlation of their colours with the image's."""
    inside, row, column = _pixels_in_view(camera, points_camera)
    if int(inside.sum()) < _MIN_IN_VIEW:
        return 0.0
    share = float(inside.double().mean())
    return share * max(_correlation(image[:, row, column], rgb[inside].T), 0.0)


def _pixels_in_view(
    camera: Camera, points_camera: Float64[Tensor, "n 3"]
) -> tuple[Bool[Tensor, "n"], Int64[Tensor, "m"], Int64[Tensor, "m"]]:
    """Which points lie in the picture, and row and column of the pixels that show them."""
    pixel = camera.project(points_camera)
    inside = (points_camera[:, 2] > 0) & camera.contains(pixel)
    column = pixel[inside, 0].long().clamp(max=camera.width - 1)
    row = pixel[inside, 1].long().clamp(max=camera.height - 1)
    return inside, row, column


def _correlation(a: Float[Tensor, "3 n"], b: Float[Tensor, "3 n"]) -> float:
    """Of brightness and colour after each channel's mean; 1 where the points have no colours."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    if float(b.abs().max()) == 0.0:
        return 1.0
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-9))


def depth_error(
    camera: Camera,
    depth_a: Float64[Tensor, "h w"],
    depth_b: Float64[Tensor, "h w"],
    b_from_a: Float64[Tensor, "4 4"],
) -> float:
    """Median over known pixels of a of |depth carried over - depth found| / depth; inf outside."""
    step = max(1, round((camera.width * camera.height / _DEPTH_SAMPLES) ** 0.5))
    depth = depth_a[::step, ::step]
    known = depth > 0
    rays = camera.rays(dtype=torch.float64)[::step, ::step][known]
    carried = geometry.transform(b_from_a, rays * depth[known][:, None])
    inside, row, column = _pixels_in_view(camera, carried)
    found, expected = depth_b[row, column], carried[inside, 2]
    error = ((expected - found).abs() / expected)[found > 0]
    outside = torch.full((int((~inside).sum()),), torch.inf, dtype=torch.float64)
    every = torch.cat([error, outside])
    return float(every.median()) if len(every) else float("inf")


def photograph_error(
    camera: Camera,
    image_a: Float[Tensor, "h w"],
    image_b: Float[Tensor, "h w"],
    b_from_a: Float64[Tensor, "4 4"],
) -> float:
    """1 - the mean over patches of a of their best correlation with b over the plane depths.

    Only patches that b covers count; 1 where b covers few.
    """
    baseline = float(torch.linalg.vector_norm(b_from_a[:3, 3]))
    sweep = torch.tensor(_SWEEP if baseline > 0 else _SWEEP[-1:], dtype=torch.float64)
    warped, inside = _warp(camera, image_b, b_from_a, sweep * max(baseline, 1e-9))
    patches = _patches(image_a[None])
    textured = patches[0].std(dim=0) > _MIN_TEXTURE
    best = _patch_correlation(patches, _patches(warped), _patches(inside.float())).amax(0)
    covered = best[textured & best.isfinite()]
    if len(covered) < _MIN_OVERLAP * max(int(textured.sum()), 1):
        return 1.0
    return 1 - float(covered.mean())


def _warp(
    camera: Camera,
    image_b: Float[Tensor, "h w"],
    b_from_a: Float64[Tensor, "4 4"],
    depths: Float64[Tensor, "p"],
) -> tuple[Float[Tensor, "p h w"], Bool[Tensor, "p h w"]]:
    """Image b as a would see it if everything lay at one depth, and which pixels b covers."""
    points = camera.rays(dtype=torch.float64) * depths[:, None, None, None]
    carried = geometry.transform(b_from_a, points.flatten(0, 2)).reshape(points.shape)
    pixel = camera.project(carried)
    inside = (carried[..., 2] > 0) & camera.contains(pixel)
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    grid = torch.where(inside[..., None], 2 * pixel / size - 1, -2.0).float()
    stack = image_b.expand(len(depths), 1, -1, -1)
    warped = functional.grid_sample(stack, grid, padding_mode="border", align_corners=False)
    return warped[:, 0], inside


def _patches(images: Float[Tensor, "p h w"]) -> Float[Tensor, "p d n"]:
    return functional.unfold(images[:, None], _PATCH_PX, stride=_PATCH_PX)


def _patch_correlation(
    a: Float[Tensor, "1 d n"], b: Float[Tensor, "p d n"], inside: Float[Tensor, "p d n"]
) -> Float[Tensor, "p n"]:
    """Correlation of patches with those of the same place; -inf where b does not cover one."""
    x, y = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    correlation = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)).clamp_min(1e-6)
    return torch.where(inside.mean(1) > _MIN_COVER, correlation, -torch.inf)
