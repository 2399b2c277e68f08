"""Surfaces of the procedural room: one texture per face and the light that each lamp throws on it.

All faces lie below each other in one atlas, so that a render reads colour and light with a single
bilinear lookup. Features are at least 5 cm wide, about two pixels from across the room.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64
from numpy.random import Generator
from torch import Tensor
from torch.nn.functional import interpolate

from rap.data.room_layout import Layout, Solids, visible

TEXELS_PER_M = 64
LIGHT_STEP_M = 0.12
SOFTENING_M2 = 0.5
Mask = Float32[Tensor, "h w"]


@dataclass(frozen=True, eq=False)
class Atlas:
    """Albedo (3 channels) and irradiance of each lamp, all faces stacked with a border texel."""

    texels: Float32[Tensor, "c h w"]
    first_row: Float64[np.ndarray, "f"]
    """Row of each face's lower edge; its left edge is column 1."""


def bake(layout: Layout, rng: Generator) -> Atlas:
    """Draw every face's texture and light."""
    sizes = [_texel_size(size) for size in layout.solids.size.reshape(-1, 2)]
    lights = _bake_light(layout, sizes)
    rows = np.cumsum([0] + [height + 2 for height, _ in sizes])
    width = max(width for _, width in sizes) + 2
    atlas = torch.zeros(3 + len(layout.lamps), int(rows[-1]), width)
    hue = rng.random()
    for index, ((height, columns), light) in enumerate(zip(sizes, lights, strict=True)):
        # Golden-ratio steps keep the hues of any few neighbouring faces apart.
        albedo = _texture(height, columns, index, (hue + 0.618034 * index) % 1.0, rng)
        face = torch.cat([albedo, light])[None]
        padded = torch.nn.functional.pad(face, (1, 1, 1, 1), mode="replicate")[0]
        atlas[:, rows[index] : rows[index + 1], : columns + 2] = padded
    return Atlas(atlas, rows[:-1] + 1.0)


def _texel_size(size_m: Float64[np.ndarray, "2"]) -> tuple[int, int]:
    """Rows and columns of a face; a partial texel at the far edge is a whole one."""
    columns, rows = np.ceil(size_m * TEXELS_PER_M)
    return int(rows), int(columns)


def _bake_light(layout: Layout, sizes: list[tuple[int, int]]) -> list[Float32[Tensor, "l h w"]]:
    """Irradiance of each lamp at unit power, shadows included, on a coarse grid, then smoothed."""
    shapes = [
        tuple(max(2, round(texels / TEXELS_PER_M / LIGHT_STEP_M)) for texels in size)
        for size in sizes
    ]
    points, normals = _grid_points(layout.solids, shapes)
    to_lamp = layout.lamps[:, None] - points
    squared = (to_lamp**2).sum(-1)
    cosine = (to_lamp * normals).sum(-1) / np.sqrt(squared)
    lit = [visible(layout.solids, points, np.broadcast_to(lamp, points.shape))
           for lamp in layout.lamps]  # fmt: skip
    light = np.maximum(cosine, 0.0) / (squared + SOFTENING_M2) * np.stack(lit)
    parts = torch.from_numpy(light).float().split([h * w for h, w in shapes], dim=1)
    return [
        interpolate(part.unflatten(1, shape)[None], size=size, mode="bilinear")[0]
        for part, shape, size in zip(parts, shapes, sizes, strict=True)
    ]


def _grid_points(
    solids: Solids, shapes: list[tuple[int, ...]]
) -> tuple[Float64[np.ndarray, "p 3"], Float64[np.ndarray, "p 3"]]:
    """Points just off the faces, on grids of the given shapes, and the normals on the free side."""
    points, normals = [], []
    fields = (solids.normal, solids.corner, solids.u, solids.v, solids.size)
    faces = zip(*(field.reshape(-1, field.shape[-1]) for field in fields), shapes, strict=True)
    for index, (outward, corner, u, v, size, (height, width)) in enumerate(faces):
        normal = -outward if index < 6 else outward
        a = (np.arange(width) + 0.5) / width * size[0]
        b = (np.arange(height) + 0.5) / height * size[1]
        grid = corner + a[None, :, None] * u + b[:, None, None] * v + 1e-3 * normal
        points.append(grid.reshape(-1, 3))
        normals.append(np.broadcast_to(normal, points[-1].shape))
    return np.concatenate(points), np.concatenate(normals)


def _texture(height: int, width: int, index: int, hue: float, rng: Generator) -> Tensor:
    """Albedo `[3, height, width]` of one face: a pattern in two colours, noise, and posters."""
    v, u = torch.meshgrid(
        torch.arange(height) / TEXELS_PER_M, torch.arange(width) / TEXELS_PER_M, indexing="ij"
    )
    base = _colour(hue, rng.uniform(0.25, 0.5), rng.uniform(0.5, 0.7))
    accent = _colour(hue + rng.uniform(0.05, 0.15), rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.45))
    noise = _noise(height, width, rng)
    mask = PATTERNS[index % len(PATTERNS)](u + 0.04 * noise[0], v + 0.04 * noise[1], rng)
    grain = 0.75 * noise.mean(0) + 0.25 * noise
    albedo = torch.lerp(base, accent, mask) * (1 + 0.5 * grain)
    for _ in range(int(rng.integers(4, 8)) if index < 6 else 1):
        _paste_poster(albedo, rng)
    return albedo.clamp(0.04, 0.96)


def _paste_poster(albedo: Float32[Tensor, "3 h w"], rng: Generator) -> None:
    """Overwrite a random rectangle by a framed picture: a blob on a noisy two-colour ground."""
    _, height, width = albedo.shape
    rows = int(min(rng.uniform(0.35, 0.8) * TEXELS_PER_M, height * 0.6))
    columns = int(min(rng.uniform(0.35, 0.9) * TEXELS_PER_M, width * 0.6))
    top, left = rng.integers(0, height - rows), rng.integers(0, width - columns)
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij"
    )
    ground = _colour(rng.random(), rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.95))
    ink = _colour(rng.random(), rng.uniform(0.5, 0.9), rng.uniform(0.2, 0.9))
    cx, cy, radius = rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), rng.uniform(0.35, 0.7)
    blob = torch.sigmoid(12 * (radius - torch.hypot(x - cx, y - cy)))
    bars = torch.sigmoid(8 * torch.sin(rng.uniform(2, 6) * (x + rng.uniform(-1, 1) * y)))
    picture = torch.lerp(ground, ink, torch.maximum(blob, 0.5 * bars)) + 0.15 * _noise(
        rows, columns, rng
    )
    frame = (x.abs() > 1 - 6 / columns) | (y.abs() > 1 - 6 / rows)
    frame_colour = 0.08 if rng.random() < 0.5 else 0.9
    albedo[:, top : top + rows, left : left + columns] = torch.where(
        frame, torch.tensor(frame_colour), picture
    )


def _noise(height: int, width: int, rng: Generator) -> Float32[Tensor, "3 h w"]:
    """Value noise of four octaves and three channels, roughly within ±1."""
    total = torch.zeros(3, height, width)
    for cell_m, amplitude in ((1.1, 0.6), (0.4, 0.5), (0.16, 0.5), (0.07, 0.45)):
        rows = math.ceil(height / TEXELS_PER_M / cell_m) + 1
        columns = math.ceil(width / TEXELS_PER_M / cell_m) + 1
        grid = torch.from_numpy(rng.uniform(-1, 1, (1, 3, rows, columns)).astype(np.float32))
        total += amplitude * interpolate(grid, (height, width), mode="bilinear")[0]
    return total


def _colour(hue: float, saturation: float, value: float) -> Float32[Tensor, "3 1 1"]:
    """RGB of an HSV colour; the hue wraps around at 1."""
    sixth = torch.tensor([5.0, 3.0, 1.0]) + 6 * hue
    ramp = torch.minimum(sixth % 6, 4 - sixth % 6).clamp(0, 1)
    return (value * (1 - saturation * ramp))[:, None, None]


def _checker(u: Mask, v: Mask, rng: Generator) -> Mask:
    frequency = math.pi / rng.uniform(0.25, 0.5)
    return torch.sigmoid(10 * torch.sin(frequency * u) * torch.sin(frequency * v))


def _stripes(u: Mask, v: Mask, rng: Generator) -> Mask:
    angle, frequency = rng.uniform(0, math.pi), 2 * math.pi / rng.uniform(0.25, 0.6)
    across = u * math.cos(angle) + v * math.sin(angle)
    return torch.sigmoid(6 * torch.sin(frequency * across))


def _bricks(u: Mask, v: Mask, rng: Generator) -> Mask:
    height = rng.uniform(0.2, 0.3)
    row = torch.floor(v / height)
    x = (u / (2 * height) + 0.5 * (row % 2)) % 1
    y = (v / height) % 1
    edge = torch.minimum(torch.minimum(x, 1 - x) * 2, torch.minimum(y, 1 - y)) * height
    return torch.sigmoid((0.02 - edge) * 150)


def _dots(u: Mask, v: Mask, rng: Generator) -> Mask:
    pitch = rng.uniform(0.25, 0.45)
    x, y = (u / pitch) % 1 - 0.5, (v / pitch) % 1 - 0.5
    return torch.sigmoid(25 * (0.28 - torch.hypot(x, y)))


def _marble(u: Mask, v: Mask, rng: Generator) -> Mask:
    warp = _noise(u.shape[0], u.shape[1], rng)
    return 0.5 + 0.5 * torch.sin(4 * (u + 0.5 * v) + 5 * warp[2])


PATTERNS: tuple[Callable[[Mask, Mask, Generator], Mask], ...] = (
    _bricks, _stripes, _checker, _dots, _stripes, _marble, _checker,
)  # fmt: skip
