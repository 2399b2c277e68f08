"""The pinhole camera. Pixel centres lie at +0.5: the image spans [0, width] × [0, height]."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """Intrinsics in pixels. Numbers, not tensors, so that cameras compare, hash and print."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def K(  # noqa: N802 (the field's own name)
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "3 3"]:
        """The calibration matrix `[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]`."""
        rows = [[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]]
        return torch.tensor(rows, device=device, dtype=dtype)

    def resized(self, width: int, height: int) -> "Camera":
        """The same view sampled at another size; exact because pixel centres lie at +0.5."""
        sx, sy = width / self.width, height / self.height
        return Camera(self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy, width, height)

    def with_height(self, height: int) -> "Camera":
        """Resized to a height, the width following the aspect ratio (rounded)."""
        return self.resized(round(self.width * height / self.height), height)

    def rays(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "h w 3"]:
        """Camera-frame directions through the pixel centres, scaled to z = 1."""
        x = (torch.arange(self.width, device=device, dtype=dtype) + 0.5 - self.cx) / self.fx
        y = (torch.arange(self.height, device=device, dtype=dtype) + 0.5 - self.cy) / self.fy
        y, x = torch.meshgrid(y, x, indexing="ij")
        return torch.stack([x, y, torch.ones_like(x)], dim=-1)

    def project(self, points_camera: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 2"]:
        """Pixel coordinates of camera-frame points; meaningful only where z > 0."""
        x, y, z = points_camera.unbind(-1)
        return torch.stack([self.fx * x / z + self.cx, self.fy * y / z + self.cy], dim=-1)

    def contains(self, pixels: Float[Tensor, "*b 2"]) -> Tensor:
        """Which pixel coordinates lie inside the image, as a boolean tensor of shape `*b`."""
        x, y = pixels.unbind(-1)
        return (x >= 0) & (x <= self.width) & (y >= 0) & (y <= self.height)
