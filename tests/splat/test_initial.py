"""Where a fit starts: distances to neighbours, sizes of scenes, and Gaussians at the points."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rap.config import FitConfig
from rap.config.splats import Strategy
from rap.scene import Points
from rap.splat.initial import (
    adam,
    initial_parameters,
    neighbour_distance,
    scene_extent_m,
    scene_size_m,
)


def compared_with_all(points: Tensor) -> Tensor:
    exact = torch.linalg.vector_norm(points.double()[:, None] - points.double(), dim=2)
    return exact.sort(dim=1).values[:, 1:4].mean(1)


@given(num=st.integers(2, 15), seed=st.integers(0, 100), far=st.floats(0, 1000))
def test_neighbours_are_the_nearest_three_also_far_from_the_origin(
    num: int, seed: int, far: float
) -> None:
    """As by comparing all with all; fewer where there are fewer."""
    points = torch.randn(num, 3, generator=torch.Generator().manual_seed(seed)) + far
    expected = compared_with_all(points)
    torch.testing.assert_close(neighbour_distance(points).double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("thickness", [0.0, 1.0])
def test_of_many_points_nearly_all_neighbours_are_found(
    device: torch.device, thickness: float
) -> None:
    """On a surface and in a volume: never too small, and on average at most 3 % too large."""
    points = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    points[:, 2] *= thickness
    ratio = neighbour_distance(points.to(device)).cpu() / compared_with_all(points)
    assert ratio.min() > 0.999
    assert ratio.mean() < 1.03


def test_points_in_one_place_have_no_distance() -> None:
    """Nothing is divided by it."""
    assert torch.equal(neighbour_distance(torch.full((50, 3), 7.3)), torch.zeros(50))


def test_extent_is_of_the_cameras_and_size_of_what_they_see() -> None:
    """Cameras in the middle of a room: the extent is theirs, the size the room's."""
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[:, 0, 3] = torch.tensor([-1.0, 0.0, 1.0])
    directions = torch.nn.functional.normalize(
        torch.randn(101, 3, generator=torch.Generator().manual_seed(0)), dim=1
    )
    points = Points(4 * directions, torch.zeros(101, 3, dtype=torch.uint8))
    assert scene_extent_m(poses) == pytest.approx(1.1)
    assert scene_size_m(poses, points) == pytest.approx(4.0)
    near = Points(directions * 0.1, points.rgb)
    assert scene_size_m(poses, near) == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("strategy", "opacity", "share"), [("mcmc", 0.5, 0.5), ("classic", 0.1, 1.0)]
)
def test_gaussians_start_round_at_the_points(
    strategy: Strategy, opacity: float, share: float
) -> None:
    """In the points' colours, as large as the strategy has it."""
    generator = torch.Generator().manual_seed(0)
    xyz = torch.randn(20, 3, generator=generator)
    rgb = torch.randint(0, 256, (20, 3), generator=generator).byte()
    parameters = initial_parameters(
        Points(xyz, rgb), 1.0, FitConfig(strategy=strategy, sh_degree=1), generator
    )
    order = torch.cdist(parameters["means"].detach(), xyz).argmin(1)
    torch.testing.assert_close(parameters["means"].detach(), xyz[order])
    torch.testing.assert_close(
        0.5 + 0.28209479 * parameters["sh_base"].detach()[:, 0], rgb[order].float() / 255
    )
    torch.testing.assert_close(
        parameters["log_scales"].detach().exp(),
        (share * neighbour_distance(xyz)[order])[:, None].expand(-1, 3),
    )
    assert parameters["opacity_logits"].sigmoid().allclose(torch.tensor(opacity))
    assert parameters["sh_rest"].shape == (20, 3, 3)


def test_several_images_a_step_go_farther_and_remember_less() -> None:
    """Rates grow with the root of their number, the moments' memory shrinks with it."""
    generator = torch.Generator().manual_seed(0)
    points = Points(torch.randn(5, 3, generator=generator), torch.zeros(5, 3, dtype=torch.uint8))
    one, four = FitConfig(), FitConfig(images_per_step=4)
    optimizers = [adam(initial_parameters(points, 1.0, c, generator), {}, c) for c in (one, four)]
    for first, second in zip(*(optimizer.param_groups for optimizer in optimizers), strict=True):
        assert first["betas"] == (0.9, 0.999)
        assert second["betas"] == pytest.approx((0.6, 0.996))
        assert second["lr"] == pytest.approx(2 * first["lr"])
