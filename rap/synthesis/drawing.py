"""Pictures of views as the bank stores them: drawn in one call, shrunk, exposed, rounded."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from rap.camera import Camera
from rap.config import ConfigError, ViewsConfig
from rap.geometry import invert
from rap.splat.appearance import apply_exposure
from rap.splat.blend import blend_problem
from rap.splat.colors import baked, kernel_usable, used_degree
from rap.splat.gaussians import Gaussians
from rap.splat.memory import VIEWS_ON_CPU, free_bytes, most_views, views_per_call
from rap.splat.order import in_order, morton_order
from rap.splat.render import gsplat_available, render
from rap.splat.tuning import RenderTuning


@dataclass(frozen=True, eq=False)
class Shots:
    """What to draw: a pose for each view and, where the splat knows of light, the light."""

    world_from_camera: Float[Tensor, "v 4 4"]
    codes: Float[Tensor, "v c"] | None = None
    """Appearance of each view; none: the mean appearance."""
    exposure: Float[Tensor, "v 3 4"] | None = None
    """Affine change of each finished picture; none: as drawn."""

    def part(self, index: slice | Int64[Tensor, "k"]) -> "Shots":
        """Some of the shots."""
        codes = None if self.codes is None else self.codes[index]
        exposure = None if self.exposure is None else self.exposure[index]
        return Shots(self.world_from_camera[index], codes, exposure)


def prepared(gaussians: Gaussians, eye: Float[Tensor, "3"], config: ViewsConfig) -> Gaussians:
    """Gaussians as views are to be drawn from them: in Morton order, colours baked if wanted.

    Once for all views. Baked colours are those that are seen from `eye`.
    """
    if config.colors == "baked":
        gaussians = baked(gaussians, eye, config.sh_degree)
    if config.morton_order:
        gaussians = in_order(gaussians, morton_order(gaussians.means))
    return gaussians


def tuning_of(config: ViewsConfig) -> RenderTuning:
    """How the settings want a call to be drawn."""
    return RenderTuning(
        packed=config.packed, radius_clip_px=config.radius_clip_px, tile_size=config.tile_size,
        sh_degree=config.sh_degree, fused_colors=config.fused_colors,
        fused_blend=config.fused_blend, fused_projection=config.fused_projection,
    )  # fmt: skip


def runnable_tuning(config: ViewsConfig, device: torch.device) -> RenderTuning:
    """How a call will be drawn: as `tuning_of` says, without our own kernels where they cannot run.

    Found once for each GPU, by running them.
    """
    tuning = tuning_of(config)
    if device.type != "cuda" or not tuning.fused_blend or not gsplat_available()[0]:
        return tuning
    return tuning if blend_problem(device) is None else replace(tuning, fused_blend=False)


def views_at_once(gaussians: Gaussians, camera: Camera, config: ViewsConfig) -> int:
    """Views per call: as set, if gsplat's integers allow it, or as the memory model allows now."""
    device = gaussians.means.device
    tuning = runnable_tuning(config, device)
    if config.render_batch is not None:
        most = most_views(gaussians.num, drawn_at(camera, config), tuning)
        return min(config.render_batch, most)
    if device.type != "cuda":
        return VIEWS_ON_CPU
    degree = used_degree(gaussians, config.sh_degree)
    by_kernel = config.fused_colors and kernel_usable(gaussians)
    shared = degree == 0 and gaussians.appearance is None
    return views_per_call(
        gaussians.num, drawn_at(camera, config), free_bytes(device), camera, tuning,
        0 if by_kernel or shared else (degree + 1) ** 2,
    )  # fmt: skip


def check_drawn_height(config: ViewsConfig, height: int, name: str) -> None:
    """Raise ConfigError for views drawn smaller than the `height` that they are to have."""
    drawn = config.render_height
    if drawn is not None and drawn < height:
        raise ConfigError(
            f"views.render_height = {drawn} must be at least {name} = {height}: views are shrunk, "
            "never enlarged"
        )


def drawn_at(camera: Camera, config: ViewsConfig) -> Camera:
    """The camera that is rendered before shrinking."""
    return camera if config.render_height is None else camera.with_height(config.render_height)


@torch.no_grad()
def draw_images(
    gaussians: Gaussians, camera: Camera, shots: Shots, config: ViewsConfig
) -> tuple[UInt8[Tensor, "v 3 h w"], Float[Tensor, "v"]]:
    """Pictures at the camera's size as uint8, and the mean alpha (coverage) of each, in one call.

    Exposure follows the shrinking: both are linear, and there are fewer pixels.
    """
    drawn = render(
        gaussians, drawn_at(camera, config), invert(shots.world_from_camera),
        codes=shots.codes, tuning=tuning_of(config),
    )  # fmt: skip
    rgb = shrunk(drawn.rgb, camera.height, camera.width)
    if shots.exposure is not None:
        rgb = apply_exposure(rgb, shots.exposure)
    return rounded(rgb), drawn.alpha.mean(dim=(1, 2))


def shrunk(
    rgb: Float[Tensor, "v 3 h w"], height: int, width: int
) -> Float[Tensor, "v 3 {height} {width}"]:
    """Antialiased: means of whole pixels where the size is a whole part, else a triangle filter."""
    if rgb.shape[2:] == (height, width):
        return rgb
    factor = rgb.shape[2] // height
    if rgb.shape[2:] == (factor * height, factor * width):
        return F.avg_pool2d(rgb, factor)
    return F.interpolate(rgb, (height, width), mode="bilinear", antialias=True)


def rounded(rgb: Float[Tensor, "v 3 h w"]) -> UInt8[Tensor, "v 3 h w"]:
    """[0, 1] to the nearest of 256 levels."""
    levels = rgb.clamp(0, 1).mul_(255).add_(0.5)
    return levels.to(torch.uint8, memory_format=torch.contiguous_format)
