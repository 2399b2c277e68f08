"""Pictures without gradients on a GPU: gsplat lists and sorts, kernels of our own do the rest.

gsplat's kernel evaluates each Gaussian of a tile's list at all of the tile's pixels. Ours finds out
first which parts of the tile a Gaussian's ellipse touches, where its alpha reaches 1/255. The rules
are gsplat's, so the picture is, too.
"""

import importlib
from functools import cache
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rap import log
from rap.camera import Camera
from rap.kernels import failure
from rap.splat import reference
from rap.splat.gaussians import Gaussians
from rap.splat.tuning import TILE, RenderTuning


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
    one = Gaussians(blob[0], blob.new_ones(1, 4), blob[0], blob[0, :, 0], blob)
    camera = Camera(1.0, 1.0, 8.0, 8.0, 16, 16)
    pose = torch.eye(4, device=device)[None]
    problem = failure(
        "rap.splat.project_kernel",
        lambda kernel: kernel.project(one, blob, camera, pose, True, 0.0, TILE),
    ) or failure(
        "rap.splat.blend_kernel",
        lambda kernel: (
            kernel.blend(blob[..., :2], blob, blob[..., 0], blob, none, none[0, 0], TILE, TILE),
            kernel.blend_records(blob.new_zeros(1, 1, 8).int(), none, none[0, 0], TILE, TILE),
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
    blend_kernel = importlib.import_module("rap.splat.blend_kernel")
    size = (camera.height, camera.width)
    if tuning.fused_projection:
        project_kernel = importlib.import_module("rap.splat.project_kernel")
        records, middles, radii, depths = project_kernel.project(
            gaussians, colors, camera, camera_from_world, antialiased, tuning.radius_clip_px, TILE
        )
        lists = _lists(middles, radii, depths, 2, _num_tiles(camera, TILE))
        return blend_kernel.blend_records(records, *lists, size, TILE)
    num_views, opacities = len(camera_from_world), gaussians.opacities
    radii, means, depths, conics, compensation = _gsplat().fully_fused_projection(
        gaussians.means, None, gaussians.quats, gaussians.scales, camera_from_world.contiguous(),
        calibration.expand(num_views, -1, -1).contiguous(), camera.width, camera.height,
        eps2d=reference.BLUR_PX2, near_plane=reference.NEAR_M, radius_clip=tuning.radius_clip_px,
        calc_compensations=antialiased, opacities=opacities,
    )  # fmt: skip
    tile = (tuning.tile_size, tuning.tile_size)
    lists = _lists(means, radii, depths, tuning.tile_size, _num_tiles(camera, tile))
    opacities = opacities.expand(num_views, -1)
    if compensation is not None:
        opacities = opacities * compensation
    return blend_kernel.blend(means, conics, opacities, colors, *lists, size, tile)


def _num_tiles(camera: Camera, tile: tuple[int, int]) -> tuple[int, int]:
    return -(-camera.width // tile[0]), -(-camera.height // tile[1])


def _lists(
    middles: Float[Tensor, "v n 2"],
    radii: Int[Tensor, "v n 2"],
    depths: Float[Tensor, "v n"],
    tile_size: int,
    num_tiles: tuple[int, int],
) -> tuple[Int[Tensor, "v rows columns"], Int[Tensor, " pairs"]]:
    """Where each tile's list begins, and the lists, nearest first: view·n + Gaussian."""
    _, pairs, splats = _gsplat().isect_tiles(middles, radii, depths, tile_size, *num_tiles)
    return _gsplat().isect_offset_encode(pairs, len(middles), *num_tiles), splats


def _gsplat() -> ModuleType:
    return importlib.import_module("gsplat")
