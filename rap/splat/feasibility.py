"""Whether a scene can be fitted on a machine, asked before any work.

The prediction of memory is a sum, for n photographs of H×W pixels, N Gaussians with p parameters
and b views in a step:

    n·H·W · 3..6  photographs, depth in half precision, masks; twice in host memory while decoding
    N·p · 20      parameters, gradients, Adam's two moments, and a copy while the number changes
    b·N · c       what drawing keeps for the way back: 500 and 8 for each harmonic
    b·H·W · 200   pictures, the window sums of SSIM, their gradients; on the CPU also 400 for the
                  list of (Gaussian, pixel) pairs, of which a pixel is assumed to have few
"""

from pathlib import Path

import torch

from rap.camera import Camera
from rap.config import FitConfig
from rap.scene import Scene
from rap.splat.initial import MIN_PHOTOGRAPHS, FitError
from rap.splat.light import NUM_FEATURES
from rap.splat.memory import free_bytes

SHARE = 0.9
"""Of the free memory; the rest is for what the prediction does not know."""
_GIB = 2**30
_GEOMETRY = 11
_COPIES_BYTES = 20
_DRAWING_BYTES, _HARMONIC_BYTES = 500, 8
_PIXEL_BYTES = {"cuda": 200, "cpu": 600}


def photograph_bytes(num: int, camera: Camera, *, depth: bool = False, masks: bool = False) -> int:
    """Of photographs, depth maps and masks in memory."""
    return num * camera.width * camera.height * (3 + 2 * depth + masks)


def gaussian_bytes(camera: Camera, config: FitConfig, device: torch.device) -> int:
    """Predicted peak of a fit with its largest number of Gaussians, besides the photographs."""
    harmonics = (config.sh_degree + 1) ** 2
    parameters = _GEOMETRY + 3 * harmonics + (NUM_FEATURES if config.appearance_dim else 0)
    drawing = config.images_per_step * (_DRAWING_BYTES + _HARMONIC_BYTES * harmonics)
    pixels = config.images_per_step * camera.width * camera.height * _PIXEL_BYTES[device.type]
    return config.max_gaussians * (_COPIES_BYTES * parameters + drawing) + pixels


def check_scene(scene: Scene, camera: Camera, config: FitConfig, device: torch.device) -> None:
    """Raise FitError for a scene that cannot be fitted, or not here."""
    if len(scene.train) < MIN_PHOTOGRAPHS:
        raise FitError(
            f"{scene.source}: {len(scene.train)} training photograph(s); a fit needs at least"
            f" {MIN_PHOTOGRAPHS} from different places"
        )
    depth = config.depth_weight > 0
    if depth and all(frame.depth is None for frame in scene.train):
        raise FitError(
            f"{scene.source}: fit.depth_weight = {config.depth_weight}, but no training frame has"
            " depth; set it to 0"
        )
    masks = any(frame.mask is not None for frame in scene.train)
    check_memory(len(scene.train), camera, config, device, depth=depth, masks=masks)


def check_memory(
    num: int,
    camera: Camera,
    config: FitConfig,
    device: torch.device,
    *,
    depth: bool = False,
    masks: bool = False,
) -> None:
    """Raise FitError, with what to lower, when a fit of `num` photographs cannot fit."""
    photographs = photograph_bytes(num, camera, depth=depth, masks=masks)
    gaussians = gaussian_bytes(camera, config, device)
    on_host = 2 * photographs + (gaussians if device.type == "cpu" else 0)
    needs = [("host memory", on_host, host_free_bytes())]
    if device.type == "cuda":
        needs.append((f"{device}", photographs + gaussians, free_bytes(device)))
    for name, needed, free in needs:
        if free is not None and needed > SHARE * free:
            what = "fit.max_gaussians" if gaussians > photographs else "fit.height"
            raise FitError(
                f"the fit needs about {needed / _GIB:.1f} GiB of {name}, {free / _GIB:.1f} GiB are"
                f" free: {num} photographs of {camera.width}x{camera.height} pixels"
                f" {photographs / _GIB:.1f} GiB, {config.max_gaussians:,} Gaussians"
                f" {gaussians / _GIB:.1f} GiB; lower {what} first"
            )


def host_free_bytes() -> int | None:
    """What the system says programs can still have; None where it does not say (not Linux)."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    lines = path.read_text(encoding="ascii").splitlines()
    kib = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(kib[0]) if kib else None
