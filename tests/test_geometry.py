"""Rigid transforms and rotations: inverses, round trips, and angles that keep their digits."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from rap import geometry

ROTATION_ERROR = 1e-12
unit_or_more = st.floats(-1, 1, allow_nan=False)
vectors = st.lists(unit_or_more, min_size=3, max_size=3).filter(lambda v: math.hypot(*v) > 0.1)
quaternions = st.lists(unit_or_more, min_size=4, max_size=4).filter(lambda q: math.hypot(*q) > 0.1)
translations = st.lists(st.floats(-100, 100), min_size=3, max_size=3)


def rotation_of(quaternion: list[float]) -> Tensor:
    """Float64 rotation of a quaternion of any length."""
    return geometry.rotation_from_quaternion(torch.tensor(quaternion, dtype=torch.float64))


def pose_of(quaternion: list[float], translation: list[float]) -> Tensor:
    """Float64 rigid transform."""
    return geometry.rigid(rotation_of(quaternion), torch.tensor(translation, dtype=torch.float64))


def about_z(degrees: float) -> Tensor:
    """Float64 rotation about z."""
    vector = torch.tensor([0.0, 0.0, math.radians(degrees)], dtype=torch.float64)
    return geometry.rotation_from_vector(vector)


@given(quaternions, translations)
def test_invert_undoes_a_transform(quaternion: list[float], translation: list[float]) -> None:
    """The product with the inverse is the identity from both sides, and inverting twice returns."""
    b_from_a = pose_of(quaternion, translation)
    a_from_b = geometry.invert(b_from_a)
    identity = torch.eye(4, dtype=torch.float64)
    assert torch.allclose(b_from_a @ a_from_b, identity, atol=1e-11)
    assert torch.allclose(a_from_b @ b_from_a, identity, atol=1e-11)
    assert torch.allclose(geometry.invert(a_from_b), b_from_a, atol=1e-11)


@given(quaternions, translations, quaternions, translations, translations)
def test_transforms_compose_as_their_names_say(
    q1: list[float], t1: list[float], q2: list[float], t2: list[float], point: list[float]
) -> None:
    """`a_from_c = a_from_b @ b_from_c` moves points as the two steps do."""
    a_from_b, b_from_c = pose_of(q1, t1), pose_of(q2, t2)
    points_c = torch.tensor([point], dtype=torch.float64)
    in_steps = geometry.transform(a_from_b, geometry.transform(b_from_c, points_c))
    at_once = geometry.transform(a_from_b @ b_from_c, points_c)
    assert torch.allclose(in_steps, at_once, atol=1e-9)


def test_transform_of_a_known_point() -> None:
    """A quarter turn about z takes x to y; then the translation is added."""
    b_from_a = geometry.rigid(about_z(90), torch.tensor([10.0, 20.0, 30.0]).double())
    point = torch.tensor([[1.0, 0.0, 0.0]]).double()
    moved = geometry.transform(b_from_a, point)
    assert torch.allclose(moved, torch.tensor([[10.0, 21.0, 30.0]]).double())


def test_transforms_work_on_batches() -> None:
    """Any leading shape gives what each element gives alone."""
    generator = torch.Generator().manual_seed(0)
    quats = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    shift = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    points = torch.randn(2, 3, 5, 3, generator=generator, dtype=torch.float64)
    poses = geometry.rigid(geometry.rotation_from_quaternion(quats), shift)
    moved, inverse = geometry.transform(poses, points), geometry.invert(poses)
    for i, j in ((0, 0), (1, 2)):
        assert torch.allclose(moved[i, j], geometry.transform(poses[i, j], points[i, j]))
        assert torch.allclose(inverse[i, j], geometry.invert(poses[i, j]))


@given(quaternions)
@example([0.0, 1.0, 0.0, 0.0])
@example([0.0, 0.0, 0.0, -1.0])
@example([1e-9, 1.0, -1.0, 1.0])
@example([0.5, -0.5, 0.5, -0.5])
def test_quaternion_round_trip(quaternion: list[float]) -> None:
    """Quaternion → rotation → quaternion is the same up to length and sign, with w ≥ 0."""
    expected = torch.nn.functional.normalize(torch.tensor(quaternion).double(), dim=0)
    rotation = geometry.rotation_from_quaternion(torch.tensor(quaternion).double())
    found = geometry.quaternion_from_rotation(rotation)
    assert found[0] >= 0
    assert min((found - expected).abs().max(), (found + expected).abs().max()) < 1e-12
    assert torch.allclose(geometry.rotation_from_quaternion(found), rotation, atol=1e-12)


@given(quaternions)
def test_quaternions_give_rotations(quaternion: list[float]) -> None:
    """Orthonormal and right-handed for any length of the quaternion."""
    assert geometry.orthonormality_error(rotation_of(quaternion)) < ROTATION_ERROR


@given(quaternions)
def test_six_numbers_of_a_rotation_give_it_back(quaternion: list[float]) -> None:
    """The first two columns, at any positive lengths, determine the rotation."""
    rotation = rotation_of(quaternion)
    columns = torch.cat([3.0 * rotation[:, 0], 0.2 * rotation[:, 1]])
    assert torch.allclose(geometry.rotation_from_6d(columns), rotation, atol=1e-12)


@given(vectors, vectors)
def test_any_six_numbers_give_a_rotation(a: list[float], b: list[float]) -> None:
    """Gram-Schmidt: x along the first vector, y in the plane of both, on the second's side."""
    first, second = torch.tensor(a).double(), torch.tensor(b).double()
    if torch.linalg.cross(first, second).norm() < 1e-3:
        return
    rotation = geometry.rotation_from_6d(torch.cat([first, second]))
    assert geometry.orthonormality_error(rotation) < 1e-10
    assert torch.allclose(rotation[:, 0], first / first.norm(), atol=1e-12)
    assert abs(rotation[:, 2] @ second) < 1e-10
    assert rotation[:, 1] @ second > 0


@pytest.mark.parametrize("degrees", [0.0, 1e-9, 1e-6, 1e-3, 1.0, 90.0, 179.0, 179.999999, 180.0])
def test_rotation_angle_keeps_its_digits(degrees: float) -> None:
    """From a billionth of a degree to a half turn, to 1e-6 of the value; acos would give 0."""
    base = rotation_of([0.3, -0.5, 0.7, 0.1])
    angle = geometry.rotation_angle_deg(base @ about_z(degrees), base)
    assert angle.dtype == torch.float64
    assert float(angle) == pytest.approx(degrees, rel=1e-6, abs=1e-13)


def test_rotation_angle_of_float32_is_computed_in_float64() -> None:
    """Equal float32 rotations differ by nothing, neighbours by their own rounding only."""
    base = rotation_of([0.3, -0.5, 0.7, 0.1]).float()
    assert geometry.rotation_angle_deg(base, base) == 0
    turned = (base.double() @ about_z(0.01)).float()
    assert float(geometry.rotation_angle_deg(base, turned)) == pytest.approx(0.01, rel=1e-2)


@given(quaternions, quaternions, quaternions)
def test_rotation_angle_is_a_bi_invariant_distance(
    q1: list[float], q2: list[float], q3: list[float]
) -> None:
    """Symmetric, at most 180°, unchanged by a common rotation, and a detour is never shorter."""
    a, b, c = rotation_of(q1), rotation_of(q2), rotation_of(q3)
    distance = geometry.rotation_angle_deg
    assert 0 <= distance(a, b) <= 180 + 1e-9
    assert torch.isclose(distance(a, b), distance(b, a), atol=1e-9)
    assert torch.isclose(distance(c @ a, c @ b), distance(a, b), atol=1e-6)
    assert torch.isclose(distance(a @ c, b @ c), distance(a, b), atol=1e-6)
    assert distance(a, b) <= distance(a, c) + distance(c, b) + 1e-6


@given(vectors, st.floats(0, 179.9))
def test_rotation_vector_turns_by_its_length_about_itself(
    axis: list[float], degrees: float
) -> None:
    """The axis stays where it is and the angle is the vector's length."""
    direction = torch.nn.functional.normalize(torch.tensor(axis).double(), dim=0)
    rotation = geometry.rotation_from_vector(direction * math.radians(degrees))
    assert torch.allclose(rotation @ direction, direction, atol=1e-12)
    identity = torch.eye(3, dtype=torch.float64)
    angle = float(geometry.rotation_angle_deg(rotation, identity))
    assert angle == pytest.approx(degrees, abs=1e-6)
    assert torch.allclose(
        rotation, torch.linalg.matrix_exp(skew(direction * math.radians(degrees)))
    )


def skew(v: Tensor) -> Tensor:
    """The matrix of the cross product with v."""
    x, y, z = v.tolist()
    return torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)


def test_rotation_vector_of_zero_is_the_identity_with_a_gradient() -> None:
    """No division by zero, forward or backward."""
    vector = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    rotation = geometry.rotation_from_vector(vector)
    assert torch.equal(rotation, torch.eye(3, dtype=torch.float64))
    rotation[2, 1].backward()
    assert vector.grad is not None
    assert vector.grad.tolist() == [1.0, 0.0, 0.0]


def test_orthonormality_error_sees_scale_shear_and_mirrors() -> None:
    """Zero for rotations; scaled, sheared and left-handed matrices are told apart from them."""
    rotation = rotation_of([0.3, -0.5, 0.7, 0.1])
    shear = torch.eye(3, dtype=torch.float64)
    shear[0, 1] = 0.1
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0]).double())
    error = geometry.orthonormality_error(torch.stack([rotation * 1.1, rotation @ shear]))
    assert error[0] == pytest.approx(0.21)
    assert error[1] > 0.05
    assert geometry.orthonormality_error(rotation @ mirror) >= 2


@given(quaternions, st.integers(0, 2**31), st.floats(0.01, 0.3))
def test_nearest_rotation_is_a_rotation_and_beats_others(
    quaternion: list[float], seed: int, noise: float
) -> None:
    """Of a noisy rotation the nearest one is at least as near as the clean one."""
    clean = rotation_of(quaternion)
    generator = torch.Generator().manual_seed(seed)
    matrix = clean + noise * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    found = geometry.nearest_rotation(matrix)
    assert geometry.orthonormality_error(found) < ROTATION_ERROR
    assert (found - matrix).norm() <= (clean - matrix).norm() + 1e-12
    assert torch.allclose(geometry.nearest_rotation(clean), clean, atol=1e-12)


def test_nearest_rotation_of_a_mirror_is_right_handed() -> None:
    """A reflected matrix still gives a rotation."""
    mirror = torch.diag(torch.tensor([1.0, 2.0, -0.5]).double())
    found = geometry.nearest_rotation(torch.stack([mirror, mirror]))
    assert geometry.orthonormality_error(found).max() < ROTATION_ERROR


@given(st.integers(0, 2**31), st.floats(0, 180))
def test_random_rotations_stay_within_the_angle(seed: int, degrees: float) -> None:
    """No rotation exceeds the bound, and the same seed gives the same rotations."""
    found = geometry.random_rotations_within(64, degrees, torch.Generator().manual_seed(seed))
    identity = torch.eye(3).expand(64, 3, 3)
    assert geometry.rotation_angle_deg(found, identity).max() <= degrees + 1e-3
    again = geometry.random_rotations_within(64, degrees, torch.Generator().manual_seed(seed))
    assert torch.equal(found, again)


def test_random_rotations_fill_the_range_evenly_about_all_axes() -> None:
    """Angles are uniform up to the bound; axes favour no direction."""
    found = geometry.random_rotations_within(4000, 30.0, torch.Generator().manual_seed(0))
    angle = geometry.rotation_angle_deg(found, torch.eye(3).expand(4000, 3, 3))
    assert angle.quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist() == pytest.approx(
        [7.5, 15, 22.5], abs=1.0
    )
    axis = geometry.quaternion_from_rotation(found)[:, 1:]
    axis = torch.nn.functional.normalize(axis, dim=-1)
    assert axis.mean(0).abs().max() < 0.05
    assert (axis.square().mean(0) - 1 / 3).abs().max() < 0.03
