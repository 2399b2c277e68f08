"""Turned photographs: what a camera sees at the new pose, where the old one saw it."""

import math

import pytest
import torch
from torch import Tensor

from rap.camera import Camera
from rap.geometry import random_rotations_within, rigid, rotation_angle_deg
from rap.synthesis.turning import turned

CAMERA = Camera(fx=55.0, fy=50.0, cx=33.0, cy=22.0, width=64, height=48)
NUM = 5


def seeded(device: torch.device, seed: int = 0) -> torch.Generator:
    """A generator on the device."""
    return torch.Generator(device).manual_seed(seed)


def some_poses(device: torch.device) -> Tensor:
    """Anywhere."""
    generator = torch.Generator().manual_seed(1)
    rotation = random_rotations_within(NUM, 180.0, generator)
    return rigid(rotation, torch.randn(NUM, 3, generator=generator)).to(device)


def far_world(poses: Tensor) -> Tensor:
    """Pictures of a world at infinity, whose colours are smooth in the direction."""
    rays = torch.nn.functional.normalize(CAMERA.rays(poses.device), dim=-1)
    world = torch.einsum("bij,hwj->bihw", poses[:, :3, :3], rays)
    return 0.5 + 0.5 * torch.sin(3 * world + torch.arange(3.0, device=poses.device)[:, None, None])


def test_a_turned_picture_is_that_at_its_new_pose(device: torch.device) -> None:
    """Wherever the old camera saw; the principal point off the middle, pixels not square."""
    poses = some_poses(device)
    images, at = turned(far_world(poses), poses, CAMERA, 8.0, seeded(device))
    expected = far_world(at)
    middle = (slice(None), slice(None), slice(12, 36), slice(16, 48))
    torch.testing.assert_close(images[middle], expected[middle], atol=1e-3, rtol=0)
    assert (images - far_world(poses))[middle].abs().max() > 0.03


def test_cameras_turn_about_themselves_by_no_more_than_is_wanted(device: torch.device) -> None:
    """Centres stay; angles are spread; the last row stays what it is."""
    poses = some_poses(device).repeat(40, 1, 1)
    _, at = turned(torch.zeros(len(poses), 3, 48, 64, device=device), poses, CAMERA, 6.0,
                   seeded(device))  # fmt: skip
    assert torch.equal(at[:, :3, 3], poses[:, :3, 3])
    assert torch.equal(at[:, 3], poses[:, 3])
    angles = rotation_angle_deg(at[:, :3, :3], poses[:, :3, :3])
    assert 5.0 < float(angles.max()) < 6.0 + 1e-3
    assert math.isclose(float(angles.mean()), 3.0, abs_tol=0.5)


def test_the_generator_alone_decides(device: torch.device) -> None:
    """The same seed turns alike, another one otherwise."""
    poses = some_poses(device)
    images = far_world(poses)
    first, again, other = (
        turned(images, poses, CAMERA, 5.0, seeded(device, seed))[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_nothing_waits_for_the_device() -> None:
    """Nor is anything copied to it."""
    device = torch.device("cuda")
    poses, generator = some_poses(device), seeded(device)
    images = far_world(poses)
    turned(images, poses, CAMERA, 5.0, generator)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        turned(images, poses, CAMERA, 5.0, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
