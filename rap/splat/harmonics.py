"""View-dependent colour by real spherical harmonics, in the order and signs of 3DGS.

We evaluate the colours ourselves on every backend: gsplat 1.5.3 copies the coefficients of every
Gaussian for every camera when it is given `sh_degree`.
"""

from math import pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

BASE = 0.5 / sqrt(pi)
"""The constant harmonic, so that a base coefficient is `(colour - 0.5) / BASE`."""
ONE = sqrt(3 / (4 * pi))
"""Constants of degree 1, then of degrees 2 and 3 in the order in which `basis` meets them."""
TWO = (0.5 * sqrt(15 / pi), 0.25 * sqrt(5 / pi), 0.25 * sqrt(15 / pi))
THREE = (
    0.25 * sqrt(35 / (2 * pi)), 0.5 * sqrt(105 / pi), 0.25 * sqrt(21 / (2 * pi)),
    0.25 * sqrt(7 / pi), 0.25 * sqrt(105 / pi),
)  # fmt: skip


def basis(directions: Float[Tensor, "*b 3"], degree: int) -> Float[Tensor, "*b k"]:
    """The (degree + 1)² harmonics at unit directions.

    Sloan, "Efficient Spherical Harmonic Evaluation", JCGT 2013, with 3DGS's signs.
    """
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    values = [torch.full_like(x, BASE)]
    if degree >= 1:
        values += [-ONE * y, ONE * z, -ONE * x]
    if degree >= 2:
        values += [
            TWO[0] * x * y,
            -TWO[0] * y * z,
            TWO[1] * (2 * zz - xx - yy),
            -TWO[0] * x * z,
            TWO[2] * (xx - yy),
        ]
    if degree >= 3:
        values += [
            -THREE[0] * y * (3 * xx - yy),
            THREE[1] * x * y * z,
            -THREE[2] * y * (4 * zz - xx - yy),
            THREE[3] * z * (2 * zz - 3 * xx - 3 * yy),
            -THREE[2] * x * (4 * zz - xx - yy),
            THREE[4] * z * (xx - yy),
            -THREE[0] * x * (xx - 3 * yy),
        ]
    return torch.stack(values, dim=-1)
