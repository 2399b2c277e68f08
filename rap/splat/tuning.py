"""How gsplat draws a call: choices of speed and memory, each with its plain position."""

from dataclasses import dataclass

TILE = (32, 16)
"""Pixels in x and in y of a tile where our own kernel projects. 32 views of 640 x 480 then have
sorting keys of 48 bits, which the sort takes in 6 passes of 8; squares of 16 need a seventh."""


@dataclass(frozen=True)
class RenderTuning:
    """The default is the plain call; the plain rasteriser minds only what changes the picture."""

    packed: bool = False
    """Keep only the visible (view, Gaussian) pairs: less memory, same picture, one more wait."""
    radius_clip_px: float = 0.0
    """Leave out Gaussians whose footprint reaches no farther than this in x and in y; not exact."""
    tile_size: int = 16
    """Pixels along a tile's side, 8 or 16, where gsplat projects; same picture."""
    sh_degree: int | None = None
    """Evaluate the harmonics only to this degree; none: all that are stored. Not exact."""
    fused_colors: bool = True
    """On CUDA and without gradients, one Triton kernel for the colours of all views."""
    fused_blend: bool = True
    """On CUDA, unpacked and without depth or gradients, our own kernel blends; same picture."""
    fused_projection: bool = True
    """For `fused_blend`, our own kernel projects, too, into fewer tiles; colours in half floats."""

    @property
    def own_projection(self) -> bool:
        """Whether our own kernels project and blend what they can draw."""
        return self.fused_blend and self.fused_projection and not self.packed
