"""Morton order: the curve, what is permuted, and that the picture stays."""

import torch

from rap.camera import Camera
from rap.splat.appearance import Appearance, identity_exposure
from rap.splat.gaussians import Gaussians
from rap.splat.order import in_order, morton_order
from rap.splat.render import render

CAMERA = Camera(40.0, 40.0, 24.0, 18.0, 48, 36)


def test_the_corners_of_a_cube_come_in_z_order() -> None:
    """x is the lowest bit, z the highest."""
    corners = torch.cartesian_prod(*([torch.tensor([0.0, 1.0])] * 3))
    ordered = corners[morton_order(corners)]
    expected = [[float(i & 1), float(i >> 1 & 1), float(i >> 2 & 1)] for i in range(8)]
    assert ordered.tolist() == expected


def test_neighbours_on_the_curve_are_neighbours_in_space() -> None:
    """Steps along the curve are far shorter than between points in random order."""
    points = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    steps = points[morton_order(points)].diff(dim=0).norm(dim=1)
    assert steps.mean() < 0.2 * points.diff(dim=0).norm(dim=1).mean()


def test_the_order_is_a_permutation_even_of_equal_points() -> None:
    """A flat or empty extent divides by nothing."""
    points = torch.zeros(5, 3)
    points[3, 0] = 1.0
    assert sorted(morton_order(points).tolist()) == [0, 1, 2, 3, 4]


def test_the_picture_does_not_depend_on_the_order(device: torch.device) -> None:
    """Gaussians move with everything that belongs to them, appearance included."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(300, 20, generator=generator)
    means = torch.rand(300, 3, generator=generator) * 2 - torch.tensor([1.0, 1.0, -2.0])
    appearance = Appearance(
        torch.randn(2, 3, generator=generator), normal[:, 8:12],
        torch.randn(3, 5, generator=generator), 0.2 * torch.randn(5, 24, generator=generator),
        identity_exposure(2, means),
    )  # fmt: skip
    gaussians = Gaussians(
        means, normal[:, :4], 0.2 * normal[:, 4:7] - 2.5, normal[:, 7],
        normal[:, 8:20].unflatten(1, (4, 3)), appearance=appearance,
    ).to(device)  # fmt: skip
    order = morton_order(gaussians.means)
    assert not torch.equal(order.cpu(), torch.arange(300))
    poses = torch.eye(4, device=device)[None]
    codes = appearance.codes[:1].to(device)
    plain = render(gaussians, CAMERA, poses, codes=codes).rgb
    ordered = render(in_order(gaussians, order), CAMERA, poses, codes=codes).rgb
    torch.testing.assert_close(ordered, plain, atol=1e-5, rtol=1e-5)
