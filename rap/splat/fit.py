"""Photographs and poses to Gaussians: 3D Gaussian splatting with MCMC densification.

Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering", SIGGRAPH 2023, and the
densification of `density.py`.
"""

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from rap import geometry, log
from rap.camera import Camera
from rap.config import FitConfig
from rap.scene import Points
from rap.splat import density, quality
from rap.splat.gaussians import Gaussians
from rap.splat.initial import (
    FitError,
    adam,
    assemble,
    check,
    initial_parameters,
    scene_extent_m,
)
from rap.splat.light import Light, initial_light, penalty, shown
from rap.splat.objective import objective
from rap.splat.render import render

_FINAL_MEANS_LR = 0.01
_SH_STAGES = 30
"""The degree rises by one with every 30th part of the fit, as in 3DGS (1,000 steps of 30,000)."""
_REPORT_EVERY = 50


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
    check(images, poses, camera, points)
    generator = torch.Generator(device).manual_seed(config.seed)
    extent_m = scene_extent_m(poses)
    parameters = initial_parameters(points, extent_m, config, generator)
    lit = initial_light(len(images), config, generator)
    optimizer = adam(parameters, lit, config)
    images = images.to(device)
    camera_from_world = geometry.invert(poses.double()).float().to(device)
    order = _image_order(len(images), config).to(device)
    with log.progress("fit", config.iterations, "step") as tick:
        for iteration in range(config.iterations):
            done = iteration / config.iterations
            means_lr = config.means_lr * extent_m * _FINAL_MEANS_LR**done
            optimizer.param_groups[0]["lr"] = means_lr
            gaussians = assemble(parameters, lit, int(done * _SH_STAGES), config)
            chosen = order[iteration]
            photos = images.index_select(0, chosen).float() / 255
            viewpoints = camera_from_world.index_select(0, chosen)
            how = shown(gaussians.appearance, chosen, config.appearance_dropout, generator)
            rgb = render(gaussians, camera, viewpoints, codes=how.codes, exposure=how.exposure).rgb
            loss = objective(gaussians, rgb, photos, config)
            if gaussians.appearance is not None:
                loss = loss + config.appearance_reg * penalty(gaussians.appearance)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            _densify(parameters, optimizer, iteration, config, generator)
            density.explore(parameters, means_lr * config.noise_lr, generator)
            tick()
            if iteration % _REPORT_EVERY == 0:
                _report(tick, iteration, loss, quality.psnr(rgb, photos), gaussians.num)
    return _finished(parameters, lit, config)


def _image_order(num: int, config: FitConfig) -> Int64[Tensor, "steps per_step"]:
    """Images of every step: random orders of all images, one after the other."""
    generator = torch.Generator().manual_seed(config.seed)
    needed = config.iterations * config.images_per_step
    rounds = [torch.randperm(num, generator=generator) for _ in range(-(-needed // num))]
    return torch.cat(rounds)[:needed].view(config.iterations, config.images_per_step)


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


def _finished(parameters: density.Parameters, lit: Light, config: FitConfig) -> Gaussians:
    for name, parameter in (parameters | lit).items():
        if not parameter.isfinite().all():
            raise FitError(f"the fit diverged: {name} are not finite; lower the learning rates")
    return assemble(_fixed(parameters), _fixed(lit), config.sh_degree, config)


def _fixed(learnt: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    return {n: nn.Parameter(p.detach(), requires_grad=False) for n, p in learnt.items()}
