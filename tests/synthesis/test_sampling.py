"""New poses near given ones: where they may lie and how far they may turn."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from rap.geometry import orthonormality_error, rigid, rotation_angle_deg, rotation_from_vector
from rap.synthesis.sampling import sample_poses

FAR = 1e6


def poses_at(num: int, seed: int, spread: float = 10.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation = rotation_from_vector(torch.randn(num, 3, generator=generator))
    return rigid(rotation, spread * torch.randn(num, 3, generator=generator))


def sample(poses: torch.Tensor, seed: int = 0, **changes: Any) -> torch.Tensor:  # noqa: ANN401 (any argument)
    arguments: dict[str, Any] = {
        "translation_m": 0.2, "rotation_deg": 10.0,
        "low": torch.full((3,), -FAR), "high": torch.full((3,), FAR),
    } | changes  # fmt: skip
    return sample_poses(poses, generator=torch.Generator().manual_seed(seed), **arguments)


@given(st.integers(0, 2**31), st.floats(0, 170), st.floats(0, 3))
def test_turn_and_shift_stay_within_their_limits(seed: int, angle: float, shift: float) -> None:
    """No view turns or moves further than asked, and all are rotations."""
    poses = poses_at(16, seed)
    new = sample(poses, seed, rotation_deg=angle, translation_m=shift)
    turned = rotation_angle_deg(poses[:, :3, :3], new[:, :3, :3])
    moved = torch.linalg.vector_norm(new[:, :3, 3] - poses[:, :3, 3], dim=-1)
    assert turned.max() <= angle + 1e-2
    assert moved.max() <= shift + 1e-4
    assert orthonormality_error(new[:, :3, :3]).max() < 1e-5


@given(st.integers(0, 2**31))
def test_rotation_keeps_the_centre(seed: int) -> None:
    """Turning alone leaves the camera where it is, however far from the origin."""
    poses = poses_at(8, seed, spread=1000.0)
    new = sample(poses, seed, translation_m=0.0, rotation_deg=90.0)
    torch.testing.assert_close(new[:, :3, 3], poses[:, :3, 3])


def test_turns_fill_the_range() -> None:
    """Angles are uniform in the range: a quarter of them lies in each quarter."""
    poses = poses_at(4000, 1)
    new = sample(poses, 2, rotation_deg=40.0)
    turned = rotation_angle_deg(poses[:, :3, :3], new[:, :3, :3])
    shares = torch.histc(turned.float(), 4, 0, 40) / 4000
    assert (shares - 0.25).abs().max() < 0.03


def test_shifts_are_uniform_in_the_ball() -> None:
    """Half of the shifts lies beyond the radius that halves the volume."""
    poses = torch.eye(4).expand(4000, 4, 4)
    radius = torch.linalg.vector_norm(sample(poses, 3, translation_m=1.0)[:, :3, 3], dim=-1)
    assert abs(float((radius > 0.5 ** (1 / 3)).float().mean()) - 0.5) < 0.03


def test_no_view_leaves_the_bounds_and_none_sticks_to_a_face() -> None:
    """Outside is redrawn, not clamped."""
    poses = torch.eye(4).expand(2000, 4, 4)
    low, high = torch.full((3,), -0.1), torch.full((3,), 0.1)
    centre = sample(poses, 4, translation_m=0.5, low=low, high=high)[:, :3, 3]
    assert (centre.abs() <= 0.1).all()
    assert ((centre.abs() - 0.1).abs() < 1e-7).sum() == 0


def test_a_camera_without_room_only_turns() -> None:
    """Where no shift fits, the centre stays."""
    pose = torch.eye(4)[None]
    point = torch.zeros(3)
    new = sample(pose, 5, translation_m=1.0, low=point, high=point)
    assert torch.equal(new[:, :3, 3], pose[:, :3, 3])
    assert rotation_angle_deg(pose[:, :3, :3], new[:, :3, :3]).item() > 0


def test_same_seed_same_poses() -> None:
    """The generator alone decides."""
    poses = poses_at(5, 6)
    assert torch.equal(sample(poses, 9), sample(poses, 9))
    assert not torch.equal(sample(poses, 9), sample(poses, 10))
