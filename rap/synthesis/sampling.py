"""New camera poses near given ones, drawn on the device without a round trip to the host."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rap.geometry import random_rotations_within, rigid

# Each shift is drawn this often; if every draw leaves the bounds the camera only turns.
NUM_SHIFTS = 8


def sample_poses(
    world_from_camera: Float[Tensor, "n 4 4"],
    *,
    translation_m: float,
    rotation_deg: float,
    low: Float[Tensor, "3"],
    high: Float[Tensor, "3"],
    generator: torch.Generator,
) -> Float[Tensor, "n 4 4"]:
    """One new pose near each given one.

    The camera turns about its own centre, by a geodesic angle uniform in [0, rotation_deg] about
    a random axis, and moves uniformly within a ball of radius translation_m. A centre outside
    the box [low, high] is redrawn, not clamped (clamping piles cameras up on the box's faces),
    and stays put when no draw fits. The generator lives on the poses' device.
    """
    num = world_from_camera.shape[0]
    turn = random_rotations_within(num, rotation_deg, generator).to(world_from_camera)
    rotation = world_from_camera[:, :3, :3] @ turn
    centre = world_from_camera[:, :3, 3]
    shifts = _uniform_in_ball(num * NUM_SHIFTS, generator).to(centre) * translation_m
    candidates = centre[:, None] + shifts.unflatten(0, (num, NUM_SHIFTS))
    candidates = torch.cat([candidates, centre[:, None]], dim=1)
    fits = _inside(candidates, low, high)
    fits[:, -1] = True
    first = fits.to(torch.uint8).argmax(dim=1)
    chosen = torch.take_along_dim(candidates, first[:, None, None], dim=1).squeeze(1)
    return rigid(rotation, chosen)


def _uniform_in_ball(num: int, generator: torch.Generator) -> Float[Tensor, "{num} 3"]:
    direction = torch.nn.functional.normalize(
        torch.randn(num, 3, generator=generator, device=generator.device), dim=-1
    )
    # The cube root makes the density uniform in volume instead of piling up at the centre.
    radius = torch.rand(num, 1, generator=generator, device=generator.device) ** (1 / 3)
    return direction * radius


def _inside(
    points: Float[Tensor, "n k 3"], low: Float[Tensor, "3"], high: Float[Tensor, "3"]
) -> Bool[Tensor, "n k"]:
    return ((points >= low) & (points <= high)).all(dim=-1)
