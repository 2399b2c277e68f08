"""Ray casting of the procedural room, exact and without a loop over pixels.

On the plane n·x = d seen from o, inverse depth is affine in the pixel: 1/z = n·R K⁻¹ (u, v, 1) /
(d − n·o). From inside a convex solid the nearest exit is the largest 1/z of its planes; from
outside the ray enters at the smallest 1/z of the planes that face the camera, and hits if that
exceeds the largest 1/z of the others. So a frame costs two additions and a comparison
per pixel and plane.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from rap.camera import Camera
from rap.data.room_layout import Solids
from rap.data.room_textures import TEXELS_PER_M, Atlas

SUPERSAMPLING = 2


@dataclass(frozen=True, eq=False)
class Light:
    """What the lamps do in one frame."""

    lamps: Float32[Tensor, "3 l"]
    """Red, green and blue power of each lamp."""
    ambient: float


def render(
    solids: Solids,
    atlas: Atlas,
    camera: Camera,
    world_from_camera: Float64[np.ndarray, "4 4"],
    light: Light,
) -> tuple[UInt8[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """Photograph, and depth (camera z in metres) through the pixel centres."""
    inverse_depth, _ = _cast(solids, camera, world_from_camera)
    fine = camera.resized(camera.width * SUPERSAMPLING, camera.height * SUPERSAMPLING)
    w, face = _cast(solids, fine, world_from_camera)
    colour = shade(_lookup(solids, atlas, fine, world_from_camera, w, face), light)
    image = avg_pool2d(colour[None], SUPERSAMPLING)[0]
    pixels = (image * 255).round_().to(torch.uint8).permute(1, 2, 0).contiguous()
    return pixels.numpy(), inverse_depth.reciprocal().numpy()


def shade(texels: Float32[Tensor, "c *n"], light: Light) -> Float32[Tensor, "3 *n"]:
    """Lambertian colour in [0, 1] of atlas texels under a light."""
    power = (light.lamps @ texels[3:].flatten(1)).unflatten(1, texels.shape[1:])
    return (texels[:3] * power.add_(light.ambient)).clamp_(max=1.0)


def face_texels(
    solids: Solids, atlas: Atlas, xyz: Float64[np.ndarray, "n 3"], face: Int64[np.ndarray, "n"]
) -> Float32[Tensor, "c n"]:
    """Texels at points that lie on the given faces."""
    u, v, corner = (part.reshape(-1, 3)[face] for part in (solids.u, solids.v, solids.corner))
    x = ((xyz - corner) * u).sum(-1) * TEXELS_PER_M + 1.0
    y = ((xyz - corner) * v).sum(-1) * TEXELS_PER_M + atlas.first_row[face]
    return _sample(atlas, torch.from_numpy(x).float()[None], torch.from_numpy(y).float()[None])[
        :, 0
    ]


def _planes(
    solids: Solids, camera: Camera, world_from_camera: Float64[np.ndarray, "4 4"]
) -> Float64[np.ndarray, "f 3"]:
    """(a, b, c) of every face, with 1/z = a·u + b·v + c at the pixel (u, v) that sees its plane."""
    normal = solids.normal.reshape(-1, 3)
    ahead = solids.offset.reshape(-1) - normal @ world_from_camera[:3, 3]
    return _along(normal, camera, world_from_camera) / ahead[:, None]


def _along(
    direction: Float64[np.ndarray, "f 3"],
    camera: Camera,
    world_from_camera: Float64[np.ndarray, "4 4"],
) -> Float64[np.ndarray, "f 3"]:
    """(a, b, c) with direction·ray = a·u + b·v + c for the ray with z = 1 through pixel (u, v)."""
    K = camera.K(dtype=torch.float64).numpy()
    return direction @ world_from_camera[:3, :3] @ np.linalg.inv(K)


def _pixels(camera: Camera) -> tuple[Float32[Tensor, "w"], Float32[Tensor, "h"]]:
    return torch.arange(camera.width) + 0.5, torch.arange(camera.height) + 0.5


def _cast(
    solids: Solids, camera: Camera, world_from_camera: Float64[np.ndarray, "4 4"]
) -> tuple[Float32[Tensor, "h w"], Int64[Tensor, "h w"]]:
    """1/z and the face that each pixel sees."""
    planes = (
        torch.from_numpy(_planes(solids, camera, world_from_camera)).float().unflatten(0, (-1, 6))
    )
    faces_camera = torch.from_numpy(solids.normal @ world_from_camera[:3, 3] > solids.offset)
    best, face = _inverse_depth(planes[0], camera).max(0)
    for solid in range(1, len(planes)):
        sides = faces_camera[solid].nonzero().flatten()
        enter, side = _inverse_depth(planes[solid, sides], camera).min(0)
        hit = enter > best
        if hit.any():
            hit &= enter > _inverse_depth(planes[solid, ~faces_camera[solid]], camera).amax(0)
            best = torch.where(hit, enter, best)
            face = torch.where(hit, sides[side] + 6 * solid, face)
    return best, face


def _inverse_depth(planes: Float32[Tensor, "f 3"], camera: Camera) -> Float32[Tensor, "f h w"]:
    """a·u + b·v + c at all pixel centres."""
    u, v = _pixels(camera)
    a, b, c = planes[:, :, None].unbind(1)
    return (a * u)[:, None, :] + (b * v + c)[:, :, None]


def _lookup(
    solids: Solids,
    atlas: Atlas,
    camera: Camera,
    world_from_camera: Float64[np.ndarray, "4 4"],
    inverse_depth: Float32[Tensor, "h w"],
    face: Int64[Tensor, "h w"],
) -> Float32[Tensor, "c h w"]:
    """Atlas texels that the pixels see: their coordinates are affine in (u, v), divided by 1/z."""
    planes = _planes(solids, camera, world_from_camera)
    rows = []
    for axis, first in ((solids.u, np.ones(1)), (solids.v, atlas.first_row)):
        axis = axis.reshape(-1, 3)
        start = ((world_from_camera[:3, 3] - solids.corner.reshape(-1, 3)) * axis).sum(-1)
        along = _along(axis, camera, world_from_camera)
        shift = TEXELS_PER_M * start + first
        rows.append(TEXELS_PER_M * along + shift[:, None] * planes)
    table = torch.from_numpy(np.concatenate(rows, axis=-1)).float()
    u, v = _pixels(camera)
    ax, bx, cx, ay, by, cy = table[face].unbind(-1)
    x = (ax * u + bx * v[:, None] + cx) / inverse_depth
    y = (ay * u + by * v[:, None] + cy) / inverse_depth
    return _sample(atlas, x, y)


def _sample(
    atlas: Atlas, x: Float32[Tensor, "h w"], y: Float32[Tensor, "h w"]
) -> Float32[Tensor, "c h w"]:
    """Bilinear lookup; texel centres lie at +0.5."""
    rows, columns = atlas.texels.shape[1:]
    grid = torch.stack([x * (2 / columns) - 1, y * (2 / rows) - 1], dim=-1)
    return grid_sample(atlas.texels[None], grid[None], mode="bilinear", align_corners=False)[0]
