"""Photographs and poses to Gaussians: 3D Gaussian splatting with MCMC densification.

Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering", SIGGRAPH 2023, and the
densification of `density.py`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from rap import geometry, log
from rap.camera import Camera
from rap.config import FitConfig
from rap.scene import Points
from rap.splat import density, harmonics, quality
from rap.splat.gaussians import Gaussians
from rap.splat.render import render

_NEIGHBOURS = 3
_MIN_SCALE_M = 1e-7
_INITIAL_SCALE = 0.5
"""Of the distance to the neighbours: half the footprints of 3DGS, so half the cost, and sharper."""
_INITIAL_OPACITY = 0.5
_MIN_EXTENT_M = 0.1
_FINAL_MEANS_LR = 0.01
_REST_LR = 1 / 20
_SH_STAGES = 30
"""The degree rises by one with every 30th part of the fit, as in 3DGS (1,000 steps of 30,000)."""
_REPORT_EVERY = 50
_CHUNK = 1024


class FitError(ValueError):
    """Photographs, poses or points that no splat can be fitted to; the message says why."""


class RenderScores(NamedTuple):
    """How well renderings equal the photographs taken at the same poses."""

    psnr: Float[Tensor, " n"]
    """Per frame, dB."""
    psnr_affine: Float[Tensor, " n"]
    """Per frame, dB, after the colour map of the rendering that fits its photograph best."""
    ssim: Float[Tensor, " n"]
    """Per frame."""
    renders: UInt8[Tensor, "n 3 h w"]
    """On the CPU."""


def fit(
    images: UInt8[Tensor, "n 3 h w"],
    poses: Float[Tensor, "n 4 4"],
    camera: Camera,
    points: Points,
    config: FitConfig,
    device: torch.device,
) -> Gaussians:
    """Optimise Gaussians on `device` until their renderings equal the photographs.

    `poses` are world_from_camera; images and camera have the size to train at. Every random choice
    follows from `config.seed`. Raises FitError for unusable input and for a fit that diverges.
    """
    _check(images, poses, camera, points)
    generator = torch.Generator(device).manual_seed(config.seed)
    parameters = _initial_parameters(points, config, generator)
    extent_m = _extent_m(poses)
    optimizer = _optimizer(parameters, config)
    images = images.to(device)
    camera_from_world = geometry.invert(poses.double()).float().to(device)
    order = _image_order(len(images), config).to(device)
    with log.progress("fit", config.iterations, "step") as tick:
        for iteration in range(config.iterations):
            done = iteration / config.iterations
            means_lr = config.means_lr * extent_m * _FINAL_MEANS_LR**done
            optimizer.param_groups[0]["lr"] = means_lr
            gaussians = _assemble(parameters, int(done * _SH_STAGES), config)
            chosen = order[iteration]
            photos = images.index_select(0, chosen).float() / 255
            viewpoints = camera_from_world.index_select(0, chosen)
            rgb = render(gaussians, camera, viewpoints).rgb
            loss = _loss(gaussians, rgb, photos, config)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            _densify(parameters, optimizer, iteration, config, generator)
            density.explore(parameters, means_lr * config.noise_lr, generator)
            tick()
            if iteration % _REPORT_EVERY == 0:
                _report(tick, iteration, loss, quality.psnr(rgb, photos), gaussians.num)
    return _finished(parameters, config)


def evaluate_renders(
    gaussians: Gaussians,
    images: UInt8[Tensor, "n 3 h w"],
    poses: Float[Tensor, "n 4 4"],
    camera: Camera,
) -> RenderScores:
    """Render at every pose, as pictures of 8 bits, and score them against the photographs."""
    device = gaussians.means.device
    camera_from_world = geometry.invert(poses.double()).float().to(device)
    psnr, psnr_affine, ssim, renders = [], [], [], []
    with torch.no_grad():
        for photo, viewpoint in zip(images, camera_from_world, strict=True):
            rgb = render(gaussians, camera, viewpoint[None]).rgb
            picture = (rgb.clamp(0, 1) * 255).round()
            target = photo[None].to(device).float() / 255
            psnr.append(quality.psnr(picture / 255, target))
            psnr_affine.append(quality.psnr_affine(picture / 255, target))
            ssim.append(quality.ssim(picture / 255, target)[None])
            renders.append(picture.byte().cpu())
    return RenderScores(
        torch.cat(psnr).cpu(), torch.cat(psnr_affine).cpu(), torch.cat(ssim).cpu(),
        torch.cat(renders),
    )  # fmt: skip


def _check(
    images: UInt8[Tensor, "n 3 h w"], poses: Float[Tensor, "n 4 4"], camera: Camera, points: Points
) -> None:
    if len(images) < 2:
        raise FitError(f"{len(images)} photograph(s); a fit needs at least 2 from different places")
    size = (images.shape[3], images.shape[2])
    if size != (camera.width, camera.height):
        raise FitError(
            f"photographs of {size[0]}x{size[1]} pixels do not belong to a camera of"
            f" {camera.width}x{camera.height}"
        )
    if len(points.xyz) < 2:
        raise FitError(f"{len(points.xyz)} initial point(s); a fit needs at least 2")
    for name, values in (("poses", poses), ("initial points", points.xyz)):
        bad = (~values.isfinite().flatten(1).all(1)).nonzero()
        if len(bad):
            raise FitError(f"{len(bad)} of the {name} are not finite, the first is {int(bad[0])}")


def _extent_m(poses: Float[Tensor, "n 4 4"]) -> float:
    """Size of the scene, to which the steps of the means are relative.

    1.1 times the largest distance of a camera from the mean one, as in 3DGS.
    """
    centres = poses[:, :3, 3].double()
    distances = torch.linalg.vector_norm(centres - centres.mean(0), dim=1)
    return max(1.1 * float(distances.max()), _MIN_EXTENT_M)


def _initial_parameters(
    points: Points, config: FitConfig, generator: torch.Generator
) -> density.Parameters:
    """Round, half transparent Gaussians of the points' colours."""
    device = generator.device
    limit = min(config.initial_points, config.max_gaussians)
    chosen = torch.randperm(len(points.xyz), generator=generator, device=device)[:limit].cpu()
    means = points.xyz[chosen].to(device)
    rgb = points.rgb[chosen].to(device).float() / 255
    num = len(means)
    scales = (_INITIAL_SCALE * _neighbour_distance(means)).clamp(min=_MIN_SCALE_M)
    num_rest = (config.sh_degree + 1) ** 2 - 1
    values = {
        "means": means,
        "quats": torch.randn(num, 4, generator=generator, device=device),
        "log_scales": scales.log()[:, None].repeat(1, 3),
        "opacity_logits": torch.full((num,), _INITIAL_OPACITY, device=device).logit(),
        "sh_base": ((rgb - 0.5) / harmonics.BASE)[:, None],
        "sh_rest": torch.zeros(num, num_rest, 3, device=device),
    }
    return {name: nn.Parameter(value) for name, value in values.items()}


def _neighbour_distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Mean distance to the three nearest other points."""
    num = min(_NEIGHBOURS, len(points) - 1) + 1
    # by matrix products, distances of millimetres between points metres away would be noise
    mode = "donot_use_mm_for_euclid_dist"
    nearest = [
        torch.cdist(chunk, points, compute_mode=mode).topk(num, largest=False).values
        for chunk in points.split(_CHUNK)
    ]
    return torch.cat(nearest)[:, 1:].mean(1)


def _optimizer(parameters: density.Parameters, config: FitConfig) -> torch.optim.Adam:
    """One group per parameter, the means first; their learning rate is set at every step."""
    rates = {
        "means": config.means_lr,
        "quats": config.quats_lr,
        "log_scales": config.scales_lr,
        "opacity_logits": config.opacities_lr,
        "sh_base": config.sh_lr,
        "sh_rest": config.sh_lr * _REST_LR,
    }
    groups = [{"name": n, "params": [parameters[n]], "lr": lr} for n, lr in rates.items()]
    return torch.optim.Adam(groups, eps=1e-15, fused=True)


def _image_order(num: int, config: FitConfig) -> Int64[Tensor, "steps per_step"]:
    """Images of every step: random orders of all images, one after the other."""
    generator = torch.Generator().manual_seed(config.seed)
    needed = config.iterations * config.images_per_step
    rounds = [torch.randperm(num, generator=generator) for _ in range(-(-needed // num))]
    return torch.cat(rounds)[:needed].view(config.iterations, config.images_per_step)


def _assemble(parameters: density.Parameters, sh_degree: int, config: FitConfig) -> Gaussians:
    """The Gaussians with harmonics up to a degree."""
    rest = parameters["sh_rest"][:, : (sh_degree + 1) ** 2 - 1]
    return Gaussians(
        means=parameters["means"],
        quats=parameters["quats"],
        log_scales=parameters["log_scales"],
        opacity_logits=parameters["opacity_logits"],
        sh=torch.cat([parameters["sh_base"], rest], dim=1),
        antialiased=config.antialiased,
    )


def _loss(
    gaussians: Gaussians,
    rgb: Float[Tensor, "b 3 h w"],
    photos: Float[Tensor, "b 3 h w"],
    config: FitConfig,
) -> Float[Tensor, ""]:
    absolute = (rgb - photos).abs().mean()
    unlike = 1 - quality.ssim(rgb, photos)
    loss = (1 - config.ssim_weight) * absolute + config.ssim_weight * unlike
    loss = loss + config.opacity_reg * gaussians.opacities.mean()
    return loss + config.scale_reg * gaussians.scales.mean()


def _densify(
    parameters: density.Parameters,
    optimizer: torch.optim.Optimizer,
    iteration: int,
    config: FitConfig,
    generator: torch.Generator,
) -> None:
    done = iteration / config.iterations
    in_phase = config.refine_start < done < config.refine_stop
    if in_phase and iteration % config.refine_every == 0:
        density.relocate(parameters, optimizer, generator)
        density.grow(parameters, optimizer, config.max_gaussians, generator)


def _report(
    tick: log.Ticker,
    iteration: int,
    loss: Float[Tensor, ""],
    psnr: Float[Tensor, " b"],
    num_gaussians: int,
) -> None:
    """Show where the fit is; the only place of the loop that waits for the device on purpose."""
    value = loss.item()
    if not value < float("inf"):
        raise FitError(
            f"the fit diverged: loss {value} at step {iteration}; lower the learning rates"
        )
    tick(0, loss=value, psnr=psnr.mean().item(), gaussians=f"{num_gaussians:,}")


def _finished(parameters: density.Parameters, config: FitConfig) -> Gaussians:
    for name, parameter in parameters.items():
        if not parameter.isfinite().all():
            raise FitError(f"the fit diverged: {name} are not finite; lower the learning rates")
    with torch.no_grad():
        fitted = _assemble(parameters, config.sh_degree, config)
    return Gaussians(
        fitted.means.detach(), fitted.quats.detach(), fitted.log_scales.detach(),
        fitted.opacity_logits.detach(), fitted.sh.detach(), antialiased=fitted.antialiased,
    )  # fmt: skip
