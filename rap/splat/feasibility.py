"""Whether a scene can be fitted on a machine, asked before any work.

The prediction of memory is a sum, for n photographs of H×W pixels, N Gaussians with p parameters,
codes of c numbers and b views in a step:

    n·H·W · 3..6  photographs, depth in half precision, masks; twice in host memory while decoding
    N·p · 20      parameters, gradients, Adam's two moments, and a copy while the number changes
    (n + 32)·c · 20   codes and the part of their head that grows with them, likewise
    b·N · k       what drawing keeps for the way back: 500 and 8 for each harmonic
    b·H·W · 200   pictures, the window sums of SSIM, their gradients; on the CPU with the list of
                  (Gaussian, pixel) pairs: up to 2,600 were measured, 4,200 with the classic
                  strategy, whose Gaussians start larger
"""

import torch

from rap.camera import Camera
from rap.config import FitConfig
from rap.scene import Scene
from rap.splat.host import host_free_bytes
from rap.splat.initial import MIN_PHOTOGRAPHS, FitError
from rap.splat.light import NUM_FEATURES, NUM_HIDDEN
from rap.splat.memory import free_bytes

SHARE = 0.9
"""Of the free memory; the rest is for what the prediction does not know."""
_GIB = 2**30
_GEOMETRY = 11
_COPIES_BYTES = 20
_DRAWING_BYTES, _HARMONIC_BYTES = 500, 8
_PIXEL_BYTES = 200
_CPU_PIXEL_BYTES = {"mcmc": 3200, "classic": 5500}


def photograph_bytes(num: int, camera: Camera, *, depth: bool = False, masks: bool = False) -> int:
    """Of photographs, depth maps and masks in memory."""
    return num * camera.width * camera.height * (3 + 2 * depth + masks)


def fit_bytes(num: int, camera: Camera, config: FitConfig, device: torch.device) -> dict[str, int]:
    """Predicted peak of a fit with its largest number of Gaussians, besides `num` photographs.

    By what takes it, each with the setting that makes it less.
    """
    harmonics = (config.sh_degree + 1) ** 2
    parameters = _GEOMETRY + 3 * harmonics + (NUM_FEATURES if config.appearance_dim else 0)
    drawing = config.max_gaussians * (_DRAWING_BYTES + _HARMONIC_BYTES * harmonics)
    per_pixel = _PIXEL_BYTES if device.type == "cuda" else _CPU_PIXEL_BYTES[config.strategy]
    pixels = camera.width * camera.height * per_pixel
    views = config.images_per_step
    codes = (num + NUM_HIDDEN) * config.appearance_dim
    return {
        "fit.max_gaussians": config.max_gaussians * _COPIES_BYTES * parameters + drawing,
        "fit.height": pixels,
        "fit.images_per_step": (views - 1) * (drawing + pixels),
        "fit.appearance_dim": _COPIES_BYTES * codes,
    }


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
    parts = fit_bytes(num, camera, config, device)
    with_photographs = parts | {"fit.height": parts["fit.height"] + photographs}
    needs = [(f"{device}", with_photographs, free_bytes(device))] if device.type == "cuda" else []
    # on the host pictures are there twice while they are decoded
    decoding = {"fit.height": 2 * photographs}
    if device.type == "cpu":
        decoding = parts | {"fit.height": parts["fit.height"] + 2 * photographs}
    for name, causes, free in [("host memory", decoding, host_free_bytes()), *needs]:
        needed = sum(causes.values())
        if free is not None and needed > SHARE * free:
            raise FitError(
                f"the fit needs about {needed / _GIB:.1f} GiB of {name}, {free / _GIB:.1f} GiB are"
                f" free: {num} photographs of {camera.width}x{camera.height} pixels"
                f" {photographs / _GIB:.1f} GiB, {_told(parts, config)}; lower"
                f" {max(causes, key=lambda key: causes[key])} first"
            )


def _told(parts: dict[str, int], config: FitConfig) -> str:
    """What besides the photographs takes how much; codes where there are any."""
    pictures = parts["fit.height"] + parts["fit.images_per_step"]
    told = [
        f"{config.max_gaussians:,} Gaussians {parts['fit.max_gaussians'] / _GIB:.1f} GiB",
        f"{config.images_per_step:,} picture(s) drawn in a step {pictures / _GIB:.1f} GiB",
    ]
    if config.appearance_dim:
        codes = parts["fit.appearance_dim"] / _GIB
        told.append(f"codes of {config.appearance_dim:,} numbers {codes:.1f} GiB")
    return ", ".join(told)
