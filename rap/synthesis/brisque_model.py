"""The learned part of BRISQUE: a support-vector regression and the ranges of its features."""

from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ShapeTable:
    """Shapes of generalised Gaussians by the ratio (E|x|)² / E[x²], which grows with the shape."""

    ratios: Float64[Tensor, " t"]
    shapes: Float64[Tensor, " t"]


def shape_table() -> ShapeTable:
    """Γ(2/a)² / (Γ(1/a) Γ(3/a)) for shapes a from 0.1 to 100, 0.05 % apart."""
    shapes = torch.logspace(-1, 2, 13_817, dtype=torch.float64)
    first, second, third = (torch.lgamma(power / shapes) for power in (1, 2, 3))
    return ShapeTable((2 * second - first - third).exp(), shapes)


@dataclass(frozen=True, eq=False)
class BrisqueModel:
    """score(x) = sum_i coefficients_i exp(-gamma |x - support_i|²) - rho, x scaled to [-1, 1]."""

    support: Float64[Tensor, "s 36"]
    coefficients: Float64[Tensor, " s"]
    gamma: Float64[Tensor, ""]
    rho: Float64[Tensor, ""]
    low: Float64[Tensor, "36"]
    """The features that become -1."""
    high: Float64[Tensor, "36"]
    """The features that become 1."""
    table: ShapeTable = field(default_factory=shape_table)

    def to(self, device: torch.device) -> "BrisqueModel":
        """The same model on a device."""
        names = [item.name for item in fields(self) if item.name != "table"]
        tensors = {name: getattr(self, name).to(device) for name in names}
        table = ShapeTable(self.table.ratios.to(device), self.table.shapes.to(device))
        return replace(self, table=table, **tensors)
