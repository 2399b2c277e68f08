"""How well one pose, or two, explain what frames show: points, a depth map, a photograph.

Everything is plain arithmetic on a few thousand samples; frames are reduced to thumbnails.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from PIL import Image
from torch import Tensor
from torch.nn import functional

from rap import geometry
from rap.camera import Camera
from rap.scene import Frame

_MIN_IN_VIEW = 30
_DEPTH_SAMPLES = 2500
_UNKNOWN_DEPTH = 65535
_THUMBNAIL_PX = 128
_PATCH_PX = 8
_MIN_TEXTURE = 4.0
_MIN_COVER = 0.9
# Plane depths in units of the baseline; the last stands for infinity.
_SWEEP = (2.0, 3.0, 4.5, 7.0, 10.0, 15.0, 25.0, 50.0, 1e5)


def depth_map(frame: Frame) -> Float64[Tensor, "h w"]:
    """Depth in metres, 0 where unknown (0 and 65535 in files)."""
    if isinstance(frame.depth, Path):
        with Image.open(frame.depth) as file:
            millimetres = torch.from_numpy(np.array(file).astype(np.float64))
        return torch.where(millimetres < _UNKNOWN_DEPTH, millimetres / 1000, 0.0)
    return torch.from_numpy(np.asarray(frame.depth, dtype=np.float64))


def thumbnail(frame: Frame, camera: Camera) -> Float[Tensor, "3 h w"]:
    """The photograph at a width or height of at most 128 pixels, 0-255."""
    scale = min(1.0, _THUMBNAIL_PX / max(camera.width, camera.height))
    size = (round(camera.width * scale), round(camera.height * scale))
    if isinstance(frame.image, Path):
        with Image.open(frame.image) as file:
            file.draft("RGB", size)
            image = file.convert("RGB")
    else:
        image = Image.fromarray(frame.image)
    pixels = np.array(image.resize(size, Image.Resampling.BOX), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def points_explained(
    camera: Camera,
    image: Float[Tensor, "3 h w"],
    points_camera: Float64[Tensor, "n 3"],
    rgb: Float[Tensor, "n 3"],
) -> float:
    """Share of the points in view times the correlation of their colours with the image's."""
    pixel = camera.project(points_camera)
    inside = (points_camera[:, 2] > 0) & camera.contains(pixel)
    if int(inside.sum()) < _MIN_IN_VIEW:
        return 0.0
    column = pixel[inside, 0].long().clamp(max=camera.width - 1)
    row = pixel[inside, 1].long().clamp(max=camera.height - 1)
    share = float(inside.double().mean())
    return share * max(_correlation(image[:, row, column], rgb[inside].T), 0.0)


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
    pixel = camera.project(carried)
    inside = (carried[:, 2] > 0) & camera.contains(pixel)
    column = pixel[inside, 0].long().clamp(max=camera.width - 1)
    row = pixel[inside, 1].long().clamp(max=camera.height - 1)
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
    """1 - the mean over patches of a of their best correlation with b over the plane depths."""
    baseline = float(torch.linalg.vector_norm(b_from_a[:3, 3]))
    best = None
    for depth in _SWEEP if baseline > 0 else _SWEEP[-1:]:
        warped, inside = _warp(camera, image_b, b_from_a, depth * max(baseline, 1e-9))
        score = _patch_correlation(image_a, warped, inside)
        best = score if best is None else torch.maximum(best, score)
    assert best is not None
    textured = _patches(image_a).std(dim=0) > _MIN_TEXTURE
    return 1 - float(best[textured].mean()) if bool(textured.any()) else float("inf")


def _warp(
    camera: Camera, image_b: Float[Tensor, "h w"], b_from_a: Float64[Tensor, "4 4"], depth: float
) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Image b as a would see it if everything lay at one depth, and which pixels b covers."""
    points = camera.rays(dtype=torch.float64).flatten(0, 1) * depth
    carried = geometry.transform(b_from_a, points)
    pixel = camera.project(carried)
    inside = (carried[:, 2] > 0) & camera.contains(pixel)
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    grid = torch.where(inside[:, None], 2 * pixel / size - 1, -2.0).float()
    grid = grid.reshape(1, camera.height, camera.width, 2)
    warped = functional.grid_sample(
        image_b[None, None], grid, padding_mode="border", align_corners=False
    )
    return warped[0, 0], inside.reshape(camera.height, camera.width)


def _patches(image: Float[Tensor, "h w"]) -> Float[Tensor, "d n"]:
    return functional.unfold(image[None, None], _PATCH_PX, stride=_PATCH_PX)[0]


def _patch_correlation(
    a: Float[Tensor, "h w"], b: Float[Tensor, "h w"], inside: Bool[Tensor, "h w"]
) -> Float[Tensor, "n"]:
    """Correlation of corresponding patches; 0 where b does not cover one."""
    x, y = (patches - patches.mean(0) for patches in (_patches(a), _patches(b)))
    correlation = (x * y).sum(0) / (x.norm(dim=0) * y.norm(dim=0)).clamp_min(1e-6)
    covered = _patches(inside.float()).mean(0) > _MIN_COVER
    return torch.where(covered, correlation, 0.0)
