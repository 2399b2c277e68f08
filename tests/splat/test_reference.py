"""The plain rasteriser against a loop over pixels, its gradients, and its invariances."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rap import geometry
from rap.camera import Camera
from rap.splat.gaussians import Gaussians
from rap.splat.reference import rasterize

CAMERA = Camera(14.0, 15.0, 6.2, 4.9, 12, 10)
FIELDS = ("means", "quats", "log_scales", "opacity_logits", "sh")


def make_gaussians(
    num: int,
    seed: int = 0,
    log_scale: float = -1.2,
    logit: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Gaussians:
    """Random Gaussians in front of, beside and behind a camera at the origin."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    means = normal(num, 3) * torch.tensor([1.5, 1.0, 1.5]) + torch.tensor([0.0, 0.0, 2.5])
    log_scales = log_scale + 0.5 * normal(num, 3)
    opacity_logits = logit + 1.5 * normal(num)
    return Gaussians(means.to(dtype), normal(num, 4), log_scales, opacity_logits, normal(num, 4, 3))


def make_poses(num: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vector = 0.3 * torch.randn(num, 3, generator=generator, dtype=torch.float64)
    centre = 0.2 * torch.randn(num, 3, generator=generator, dtype=torch.float64)
    return geometry.rigid(geometry.rotation_from_vector(vector), centre)


def make_colors(gaussians: Gaussians, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    colors = torch.rand(1, gaussians.num, 3, generator=generator, dtype=gaussians.means.dtype)
    return colors.to(gaussians.means.device)


def loop_over_pixels(
    gaussians: Gaussians, colors: Tensor, camera: Camera, pose: Tensor, antialiased: bool
) -> Tensor:
    """The definition, pixel by pixel and Gaussian by Gaussian, written from the formulas."""
    picture = torch.zeros(camera.height, camera.width, 5, dtype=torch.float64)
    splats = []
    for i in range(gaussians.num):
        x, y, z = (pose[:3, :3] @ gaussians.means[i] + pose[:3, 3]).tolist()
        if z < 0.01:
            continue
        rotation = geometry.rotation_from_quaternion(gaussians.quats[i])
        covariance = rotation @ torch.diag(gaussians.scales[i] ** 2) @ rotation.T
        slack_x, slack_y = 0.15 * camera.width / camera.fx, 0.15 * camera.height / camera.fy
        tx = max(-camera.cx / camera.fx - slack_x, x / z)
        tx = min((camera.width - camera.cx) / camera.fx + slack_x, tx)
        ty = max(-camera.cy / camera.fy - slack_y, y / z)
        ty = min((camera.height - camera.cy) / camera.fy + slack_y, ty)
        jacobian = torch.tensor(
            [[camera.fx / z, 0, -camera.fx * tx / z], [0, camera.fy / z, -camera.fy * ty / z]],
            dtype=torch.float64,
        )
        view = jacobian @ pose[:3, :3]
        sharp = view @ covariance @ view.T
        blurred = sharp + 0.3 * torch.eye(2, dtype=torch.float64)
        opacity = float(gaussians.opacities[i])
        if antialiased:
            opacity *= math.sqrt(max(0.0, float(sharp.det() / blurred.det())))
        centre = (camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy)
        feature = torch.cat([colors[i], torch.tensor([z, 1.0], dtype=torch.float64)])
        splats.append((z, centre, torch.linalg.inv(blurred), opacity, feature))
    splats.sort(key=lambda splat: splat[0])
    for row in range(camera.height):
        for column in range(camera.width):
            passed = 1.0
            for _, centre, conic, opacity, feature in splats:
                delta = torch.tensor(
                    [centre[0] - column - 0.5, centre[1] - row - 0.5], dtype=torch.float64
                )
                alpha = min(0.999, opacity * math.exp(-0.5 * float(delta @ conic @ delta)))
                if alpha < 1 / 255:
                    continue
                if passed * (1 - alpha) <= 1e-4:
                    break
                picture[row, column] += passed * alpha * feature
                passed *= 1 - alpha
    return picture


@pytest.mark.parametrize("antialiased", [True, False])
@pytest.mark.parametrize(
    ("log_scale", "logit"), [(-1.2, 0.0), (-3.0, 3.0), (0.5, 6.0)], ids=["mixed", "small", "opaque"]
)
def test_equals_the_loop_over_pixels(antialiased: bool, log_scale: float, logit: float) -> None:
    """Small, mixed and opaque splats give the picture of the definition, to rounding."""
    gaussians = make_gaussians(20, log_scale=log_scale, logit=logit)
    pose, colors = make_poses(1), make_colors(gaussians)
    expected = loop_over_pixels(gaussians, colors[0], CAMERA, pose[0], antialiased)
    assert expected[..., 4].max() > 0.3
    picture = rasterize(gaussians, colors, CAMERA, pose, antialiased)[0]
    torch.testing.assert_close(picture, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("antialiased", [True, False])
def test_gradients_are_those_of_finite_differences(antialiased: bool) -> None:
    """They agree in float64 for all parameters, the colours and the poses of two views.

    Of four random sums over the picture, so that four Jacobian rows are checked, not 1,200.
    """
    gaussians = make_gaussians(4, seed=4)
    leaves = [gaussians.means, gaussians.quats, gaussians.log_scales, gaussians.opacity_logits]
    leaves += [make_colors(gaussians), make_poses(2)]
    for leaf in leaves:
        leaf.requires_grad_()

    generator = torch.Generator().manual_seed(9)
    weights = torch.randn(4, 2, 10, 12, 5, generator=generator, dtype=torch.float64)

    def sums(*values: Tensor) -> Tensor:
        means, quats, log_scales, opacity_logits, colors, poses = values
        changed = Gaussians(means, quats, log_scales, opacity_logits, gaussians.sh)
        picture = rasterize(changed, colors, CAMERA, poses, antialiased)
        return (weights * picture).sum(dim=(1, 2, 3, 4))

    assert torch.autograd.gradcheck(sums, leaves, eps=1e-7, atol=1e-6)


@given(seed=st.integers(0, 1000))
def test_order_of_the_gaussians_does_not_matter(seed: int) -> None:
    """Depth alone decides what is in front."""
    gaussians, pose = make_gaussians(12, seed), make_poses(1, seed)
    colors = make_colors(gaussians)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    shuffled = Gaussians(*(getattr(gaussians, field)[order] for field in FIELDS))
    torch.testing.assert_close(
        rasterize(gaussians, colors, CAMERA, pose, True),
        rasterize(shuffled, colors[:, order], CAMERA, pose, True),
    )


@given(seed=st.integers(0, 1000))
def test_a_rigid_motion_of_everything_changes_nothing(seed: int) -> None:
    """Only the pose of the Gaussians relative to the camera counts."""
    gaussians, pose = make_gaussians(12, seed), make_poses(1, seed)
    motion = make_poses(1, seed + 1)[0]
    turned = geometry.rotation_from_quaternion(gaussians.quats)
    moved = Gaussians(
        geometry.transform(motion, gaussians.means),
        geometry.quaternion_from_rotation(motion[:3, :3] @ turned),
        gaussians.log_scales,
        gaussians.opacity_logits,
        gaussians.sh,
    )
    colors = make_colors(gaussians)
    torch.testing.assert_close(
        rasterize(gaussians, colors, CAMERA, pose, True),
        rasterize(moved, colors, CAMERA, pose @ geometry.invert(motion), True),
    )


def test_views_of_one_call_equal_single_calls(device: torch.device) -> None:
    """Batching does not mix views, each with its own colours."""
    gaussians, poses = make_gaussians(20).to(device), make_poses(3).to(device)
    colors = torch.cat([make_colors(gaussians, seed) for seed in range(3)]).to(device)
    together = rasterize(gaussians, colors, CAMERA, poses, True)
    for view in range(3):
        single = rasterize(gaussians, colors[[view]], CAMERA, poses[[view]], True)
        torch.testing.assert_close(together[[view]], single)


def test_float32_keeps_the_picture_of_float64() -> None:
    """Transmittance survives a million pairs: a float32 running sum would be off by 1e-2."""
    camera = Camera(120.0, 120.0, 80.0, 60.0, 160, 120)
    double = make_gaussians(8000, log_scale=-3.0)
    single = Gaussians(*(getattr(double, field).float() for field in FIELDS))
    pose, colors = make_poses(1), make_colors(double)
    exact = rasterize(double, colors, camera, pose, True)
    rounded = rasterize(single, colors.float(), camera, pose.float(), True)
    difference = (rounded.double() - exact)[..., :3].abs()
    # single pixels may flip at the thresholds of alpha and transmittance
    assert difference.max() < 0.01
    assert difference.mean() < 2e-6


def test_camera_that_looks_away_sees_nothing(device: torch.device) -> None:
    """With everything behind the camera the picture is empty, and so are the gradients."""
    gaussians = make_gaussians(5).to(device)
    gaussians.means[:, 2] = -gaussians.means[:, 2].abs() - 1
    means = gaussians.means.requires_grad_()
    pose = torch.eye(4, dtype=torch.float64, device=device)[None]
    picture = rasterize(gaussians, make_colors(gaussians), CAMERA, pose, True)
    (gradient,) = torch.autograd.grad(picture.sum(), means)
    assert torch.equal(picture, torch.zeros_like(picture))
    assert torch.equal(gradient, torch.zeros_like(means))


def test_extremely_thin_splats_stay_finite() -> None:
    """Covariances that rounding makes singular in float32 give no NaN, forward or backward."""
    gaussians = make_gaussians(50, dtype=torch.float32)
    gaussians.log_scales[:, 0] = 4.0
    gaussians.log_scales[:, 1:] = -30.0
    gaussians.log_scales[10:20] = -80.0
    leaves = [getattr(gaussians, field).requires_grad_() for field in FIELDS[:4]]
    pose = torch.eye(4)[None]
    picture = rasterize(gaussians, make_colors(gaussians), CAMERA, pose, True)
    gradients = torch.autograd.grad(picture.square().sum(), leaves)
    assert picture.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("opacity", "alpha"),
    [(1 - 1e-9, 0.999), (0.5, 0.5), (1.001 / 255, 1.001 / 255), (0.999 / 255, 0.0)],
)
def test_alpha_is_capped_and_cut(opacity: float, alpha: float) -> None:
    """At its centre a splat has its opacity, at most 0.999, and nothing below 1/255."""
    double = {"dtype": torch.float64}
    gaussians = Gaussians(
        means=torch.tensor([[0.0, 0.0, 2.0]], **double),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]], **double),
        log_scales=torch.zeros(1, 3, **double),
        opacity_logits=torch.tensor([opacity], **double).logit(),
        sh=torch.zeros(1, 1, 3, **double),
    )
    camera = Camera(10.0, 10.0, 2.5, 1.5, 5, 3)
    pose = torch.eye(4, **double)[None]
    picture = rasterize(gaussians, make_colors(gaussians), camera, pose, False)
    assert float(picture[0, 1, 2, 4]) == pytest.approx(alpha, rel=1e-9)
