"""Pictures without gradients on a GPU: gsplat projects and lists, a kernel of our own blends.

gsplat's kernel evaluates each Gaussian of a tile's list at all of the tile's pixels. Ours finds out
first which parts of the tile a Gaussian's ellipse touches, where its alpha reaches 1/255. The rules
are gsplat's, so the picture is, too.
"""

import importlib
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from rap import log
from rap.camera import Camera
from rap.splat import reference
from rap.splat.gaussians import Gaussians
from rap.splat.kernels import failure
from rap.splat.tuning import RenderTuning


def can_blend(
    gaussians: Gaussians, colors: Float[Tensor, "#v n 3"], camera_from_world: Float[Tensor, "v 4 4"]
) -> bool:
    """Whether the kernel can draw these: float32 on a CUDA device, no gradients, Triton works."""
    inputs = [
        gaussians.means, gaussians.quats, gaussians.log_scales, gaussians.opacity_logits, colors,
        camera_from_world,
    ]  # fmt: skip
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return False
    device = gaussians.means.device
    if device.type != "cuda" or any(tensor.dtype != torch.float32 for tensor in inputs):
        return False
    return blend_problem(device) is None


@cache
def blend_problem(device: torch.device) -> str | None:
    """Why the kernel cannot run on a CUDA device, found by running it once; said in one line."""
    blob = torch.ones(1, 1, 3, device=device)
    none = torch.zeros(1, 1, 1, dtype=torch.int32, device=device)
    problem = failure(
        "rap.splat.blend_kernel",
        lambda kernel: kernel.blend(
            blob[..., :2], blob, blob[..., 0], blob, none, none[0, 0], (16, 16), 16
        ),
    )
    if problem is not None:
        log.warn(f"views are blended by gsplat's own kernel: {problem}")
    return problem


def draw(
    gaussians: Gaussians,
    colors: Float[Tensor, "#v n 3"],
    camera: Camera,
    camera_from_world: Float[Tensor, "v 4 4"],
    calibration: Float[Tensor, "3 3"],
    antialiased: bool,
    tuning: RenderTuning,
) -> tuple[Float[Tensor, "v 3 h w"], Float[Tensor, "v h w"]]:
    """Premultiplied colour, and alpha, as gsplat's `rasterization` draws them."""
    gsplat = importlib.import_module("gsplat")
    num_views, opacities = len(camera_from_world), gaussians.opacities
    radii, means, depths, conics, compensation = gsplat.fully_fused_projection(
        gaussians.means, None, gaussians.quats, gaussians.scales, camera_from_world.contiguous(),
        calibration.expand(num_views, -1, -1).contiguous(), camera.width, camera.height,
        eps2d=reference.BLUR_PX2, near_plane=reference.NEAR_M, radius_clip=tuning.radius_clip_px,
        calc_compensations=antialiased, opacities=opacities,
    )  # fmt: skip
    columns, rows = (-(-side // tuning.tile_size) for side in (camera.width, camera.height))
    _, pairs, splats = gsplat.isect_tiles(means, radii, depths, tuning.tile_size, columns, rows)
    starts = gsplat.isect_offset_encode(pairs, num_views, columns, rows)
    del pairs, depths, radii
    opacities = opacities.expand(num_views, -1)
    return importlib.import_module("rap.splat.blend_kernel").blend(
        means, conics, opacities if compensation is None else opacities * compensation, colors,
        starts, splats, (camera.height, camera.width), tuning.tile_size,
    )  # fmt: skip
