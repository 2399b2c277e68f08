"""How gsplat draws a call: choices of speed and memory, each with its plain position."""

from dataclasses import dataclass


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
