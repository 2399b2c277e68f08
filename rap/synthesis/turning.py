"""Photographs as their cameras would have seen them after a turn: exact, because nothing moves.

A turn about a camera's own centre shows no surface that was hidden: the new picture is the old
one under a homography, with real pixels at a new pose. What lay outside of it is mirrored at its
border, so that no edge tells how far it was turned.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rap.camera import Camera
from rap.geometry import random_rotations_within


def turned(
    images: Float[Tensor, "b 3 h w"],
    world_from_camera: Float[Tensor, "b 4 4"],
    camera: Camera,
    max_angle_deg: float,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 4 4"]]:
    """Each picture and pose after a turn by an angle uniform in [0, max_angle_deg], any axis.

    `camera` has the pictures' size. Pixels are interpolated bilinearly. Runs on the images' device,
    on which the generator must live, without waiting for it.
    """
    old_from_new = random_rotations_within(len(images), max_angle_deg, generator).to(images)
    rotation = world_from_camera[:, :3, :3] @ old_from_new
    # Not `rigid`, which takes its last row from the host.
    top = torch.cat([rotation, world_from_camera[:, :3, 3:]], dim=2)
    return _seen(images, old_from_new, camera), torch.cat([top, world_from_camera[:, 3:]], dim=1)


def _seen(
    images: Float[Tensor, "b 3 h w"], old_from_new: Float[Tensor, "b 3 3"], camera: Camera
) -> Float[Tensor, "b 3 h w"]:
    rays = camera.rays(images.device).flatten(0, 1) @ old_from_new.mT
    x, y = camera.project(rays).unbind(-1)
    # grid_sample counts from -1 to 1 over what spans [0, width] x [0, height] here.
    grid = torch.stack([2 * x / camera.width - 1, 2 * y / camera.height - 1], dim=-1)
    grid = grid.unflatten(1, (camera.height, camera.width))
    return F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
