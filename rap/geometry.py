"""Rigid transforms and rotations.

Conventions that hold everywhere: `a_from_b` maps coordinates of frame b to frame a, so
`a_from_c = a_from_b @ b_from_c`; a pose is `world_from_camera` `[..., 4, 4]` with OpenCV
camera axes (x right, y down, z forward), in metres; quaternions are wxyz; angles are radians unless
a name ends in `_deg`.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def rigid(
    rotation: Float[Tensor, "*b 3 3"], translation: Float[Tensor, "*b 3"]
) -> Float[Tensor, "*b 4 4"]:
    """The 4×4 matrix of `x -> rotation @ x + translation`."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def invert(b_from_a: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """`a_from_b` of a rigid transform, by transposing instead of solving."""
    rotation = b_from_a[..., :3, :3].mT
    return rigid(rotation, -(rotation @ b_from_a[..., :3, 3:]).squeeze(-1))


def transform(
    b_from_a: Float[Tensor, "*b 4 4"], points: Float[Tensor, "*b n 3"]
) -> Float[Tensor, "*b n 3"]:
    """Points of frame a in frame b."""
    return points @ b_from_a[..., :3, :3].mT + b_from_a[..., None, :3, 3]


def rotation_from_6d(vectors: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation from two column vectors a, b: x = a/|a|, z = (x × b)/|x × b|, y = z × x.

    Zhou et al., "On the Continuity of Rotation Representations", CVPR 2019, in the column order
    that the published RAP weights use.
    """
    x = torch.nn.functional.normalize(vectors[..., :3], dim=-1)
    z = torch.nn.functional.normalize(torch.linalg.cross(x, vectors[..., 3:]), dim=-1)
    return torch.stack([x, torch.linalg.cross(z, x), z], dim=-1)


def rotation_from_quaternion(quat: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation from a wxyz quaternion of any non-zero length."""
    w, x, y, z = torch.nn.functional.normalize(quat, dim=-1).unbind(-1)
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def quaternion_from_rotation(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Unit wxyz quaternion with w ≥ 0.

    The largest of the four squared components picks the formula, so that no division is by a
    small number (Shepperd 1978).
    """
    r = rotation
    m00, m11, m22 = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    a, b, c = r[..., 2, 1], r[..., 0, 2], r[..., 1, 0]
    d, e, f = r[..., 1, 2], r[..., 2, 0], r[..., 0, 1]
    candidates = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, a - d, b - e, c - f], dim=-1),
            torch.stack([a - d, 1 + m00 - m11 - m22, c + f, b + e], dim=-1),
            torch.stack([b - e, c + f, 1 - m00 + m11 - m22, a + d], dim=-1),
            torch.stack([c - f, b + e, a + d, 1 - m00 - m11 + m22], dim=-1),
        ],
        dim=-2,
    )
    best = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    quat = torch.take_along_dim(candidates, best[..., None, None], dim=-2).squeeze(-2)
    quat = torch.nn.functional.normalize(quat, dim=-1)
    return torch.where(quat[..., :1] < 0, -quat, quat)


def rotation_from_vector(vector: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation by `|vector|` radians about `vector` (the exponential map of so(3))."""
    half = 0.5 * torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    # sin(h)/(2h) by sinc, which is exact at zero
    xyz = vector * (0.5 * torch.sinc(half / torch.pi))
    return rotation_from_quaternion(torch.cat([torch.cos(half), xyz], dim=-1))


def rotation_angle_deg(
    a: Float[Tensor, "*b 3 3"], b: Float[Tensor, "*b 3 3"]
) -> Float[Tensor, "*b"]:
    """Geodesic angle between two rotations in degrees, float64.

    4·atan2(|q−p|, |q+p|) on unit quaternions, exact to rounding from 0° to 180°, where acos of a
    trace loses half the digits at 0° and returns a flat 0.
    """
    p = quaternion_from_rotation(a.double())
    q = quaternion_from_rotation(b.double())
    q = torch.where((p * q).sum(-1, keepdim=True) < 0, -q, q)
    half = torch.atan2(
        torch.linalg.vector_norm(p - q, dim=-1), torch.linalg.vector_norm(p + q, dim=-1)
    )
    return torch.rad2deg(4 * half)


def orthonormality_error(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """Largest entry of |RᵀR − I|, plus 2 where the determinant is negative (a mirror)."""
    identity = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    error = (rotation.mT @ rotation - identity).abs().amax(dim=(-2, -1))
    return error + 2.0 * (torch.linalg.det(rotation) < 0)


def nearest_rotation(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """The rotation closest to a matrix in the Frobenius norm (orthogonal Procrustes)."""
    u, _, vh = torch.linalg.svd(matrix)
    sign = torch.linalg.det(u @ vh)
    u = torch.cat([u[..., :2], u[..., 2:] * sign[..., None, None]], dim=-1)
    return u @ vh


def nearest_pose(
    poses: Float[Tensor, "m 4 4"], queries: Float[Tensor, "n 4 4"]
) -> Int64[Tensor, "n"]:
    """Index of the pose nearest to each query: least translation_m / 0.05 + rotation_deg / 5."""
    quats = quaternion_from_rotation(poses[:, :3, :3])
    nearest = []
    for part in queries.split(512):
        cosine = quaternion_from_rotation(part[:, :3, :3]) @ quats.mT
        angle_deg = torch.rad2deg(2 * torch.acos(cosine.abs().clamp(max=1.0)))
        distance_m = torch.cdist(part[:, :3, 3], poses[:, :3, 3])
        nearest.append((distance_m / 0.05 + angle_deg / 5.0).argmin(dim=1))
    return torch.cat(nearest)


def random_rotations_within(
    num: int, max_angle_deg: float, generator: torch.Generator
) -> Float[Tensor, "{num} 3 3"]:
    """Rotations about uniformly random axes by geodesic angles uniform in [0, max_angle_deg]."""
    device = generator.device
    axis = torch.nn.functional.normalize(
        torch.randn(num, 3, generator=generator, device=device), dim=-1
    )
    angle = torch.rand(num, 1, generator=generator, device=device) * max_angle_deg
    return rotation_from_vector(axis * torch.deg2rad(angle))
