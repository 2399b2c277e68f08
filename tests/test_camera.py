"""The pinhole camera: projection, rays and resizing agree with each other to the half pixel."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rap.camera import Camera

cameras = st.builds(
    Camera,
    fx=st.floats(10, 2000),
    fy=st.floats(10, 2000),
    cx=st.floats(0, 500),
    cy=st.floats(0, 500),
    width=st.integers(1, 60),
    height=st.integers(1, 60),
)
sizes = st.tuples(st.integers(1, 1000), st.integers(1, 1000))


def points_before(camera: Camera) -> torch.Tensor:
    """Some camera-frame points with z > 0."""
    generator = torch.Generator().manual_seed(camera.width)
    points = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    points[:, 2] = points[:, 2].abs() + 0.1
    return points


@given(cameras)
def test_project_is_the_calibration_matrix(camera: Camera) -> None:
    """`project` is K·x divided by its third entry."""
    points = points_before(camera)
    homogeneous = points @ camera.K(dtype=torch.float64).T
    expected = homogeneous[:, :2] / homogeneous[:, 2:]
    assert torch.allclose(camera.project(points), expected, rtol=1e-12, atol=1e-9)


@given(cameras)
def test_rays_project_onto_pixel_centres(camera: Camera) -> None:
    """Ray (row, column) goes through (column + 0.5, row + 0.5), at any depth along it."""
    rays = camera.rays(dtype=torch.float64)
    assert rays.shape == (camera.height, camera.width, 3)
    assert (rays[..., 2] == 1).all()
    y, x = torch.meshgrid(
        torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij"
    )
    pixels = camera.project(rays * 2.7)
    assert torch.allclose(pixels, torch.stack([x, y], dim=-1).double(), atol=1e-9)


@given(cameras, sizes)
def test_resizing_scales_projections(camera: Camera, size: tuple[int, int]) -> None:
    """A point keeps its relative place in the image whatever the image's size."""
    points = points_before(camera)
    resized = camera.resized(*size)
    assert (resized.width, resized.height) == size
    scale = torch.tensor([size[0] / camera.width, size[1] / camera.height], dtype=torch.float64)
    expected = camera.project(points) * scale
    assert torch.allclose(resized.project(points), expected, rtol=1e-9, atol=1e-9)


@given(cameras, sizes)
def test_resizing_back_returns_the_camera(camera: Camera, size: tuple[int, int]) -> None:
    """Resizing there and back changes no intrinsic beyond rounding."""
    back = camera.resized(*size).resized(camera.width, camera.height)
    for name in ("fx", "fy", "cx", "cy"):
        assert getattr(back, name) == pytest.approx(getattr(camera, name), rel=1e-12)
    assert camera.resized(camera.width, camera.height) == camera


def test_resizing_to_half_averages_pixel_blocks() -> None:
    """The ray of a pixel at half size is the mean of the four rays that it covers."""
    camera = Camera(90.0, 80.0, 31.0, 22.0, 64, 48)
    fine, coarse = (
        camera.rays(dtype=torch.float64),
        camera.resized(32, 24).rays(dtype=torch.float64),
    )
    blocks = fine.reshape(24, 2, 32, 2, 3).mean((1, 3))
    assert torch.allclose(blocks, coarse, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "height", "expected"), [((640, 480), 240, 320), ((1920, 1080), 240, 427)]
)
def test_with_height_follows_the_aspect_ratio(
    size: tuple[int, int], height: int, expected: int
) -> None:
    """The width is rounded to whole pixels, and the focal lengths follow the size in each axis."""
    camera = Camera(500.0, 500.0, size[0] / 2, size[1] / 2, *size).with_height(height)
    assert (camera.width, camera.height) == (expected, height)
    assert (camera.cx, camera.cy) == pytest.approx((expected / 2, height / 2))


def test_contains_is_the_image_rectangle() -> None:
    """Corners of the image are inside; a hair beyond any of its four sides is not."""
    camera = Camera(1.0, 1.0, 0.0, 0.0, 6, 4)
    inside = torch.tensor([[0.0, 0.0], [6.0, 4.0], [3.0, 2.0]])
    outside = torch.tensor([[-0.01, 2.0], [6.01, 2.0], [3.0, -0.01], [3.0, 4.01]])
    assert camera.contains(inside).all()
    assert not camera.contains(outside).any()


def test_cameras_compare_and_hash_by_value() -> None:
    """Equal intrinsics are one camera, so caches and sets may be keyed by it."""
    a, b = (Camera(1.0, 2.0, 3.0, 4.0, 5, 6) for _ in range(2))
    assert a == b
    assert len({a, b, a.resized(10, 12)}) == 2


def test_calibration_matrix_on_a_device(device: torch.device) -> None:
    """K and rays are made where and how they are asked for."""
    camera = Camera(1.0, 2.0, 3.0, 4.0, 5, 6)
    K = camera.K(device)
    assert (K.device.type, K.dtype) == (device.type, torch.float32)
    assert K.tolist() == [[1.0, 0.0, 3.0], [0.0, 2.0, 4.0], [0.0, 0.0, 1.0]]
    assert camera.rays(device, torch.float64).device.type == device.type
