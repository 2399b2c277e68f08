"""Photographs and poses to Gaussians: 3D Gaussian splatting, and what each of its steps does.

Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering", SIGGRAPH 2023. How
many Gaussians there are is decided by `density.py` (MCMC) or `classic.py`.
"""

import time
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from rap import geometry, log
from rap.camera import Camera
from rap.config import FitConfig
from rap.scene import Points
from rap.splat import classic, density
from rap.splat.exposures import with_exposures
from rap.splat.gaussians import Gaussians, save_ply
from rap.splat.initial import (
    FitError,
    adam,
    assemble,
    check,
    initial_parameters,
    scene_extent_m,
    scene_size_m,
)
from rap.splat.light import initial_light, set_learning_rates, shown
from rap.splat.objective import Targets, Terms, objective, shown_psnr, term_weights, total
from rap.splat.prune import best, contributions, visible
from rap.splat.render import render
from rap.splat.state import FitState, Saving, fingerprint, load_state, save_state
from rap.splat.trained_colors import trained_colors
from rap.splat.update import update

__all__ = ["Course", "FitError", "Saving", "begin", "fit", "step"]

_FINAL_MEANS_LR = 0.01
_SH_STAGES = 30
"""The degree rises by one with every 30th part of the fit, as in 3DGS (1,000 steps of 30,000)."""
_REPORT_EVERY_S = 0.5


@dataclass(frozen=True, eq=False)
class Course:
    """What stays the same from the first step of a fit to its last."""

    targets: Targets
    camera: Camera
    camera_from_world: Float[Tensor, "n 4 4"]
    centres: Float[Tensor, "n 3"]
    """Of the cameras, in the world."""
    weights: dict[str, Float[Tensor, ""]]
    """Of the loss's terms, on the device."""
    order: Int64[Tensor, "steps b"]
    """Images of every step, on the device."""
    extent_m: float
    """Of the cameras; the unit of the means' steps."""
    size_m: float
    """Of what they see; the unit in which Gaussians are large."""
    config: FitConfig


def fit(
    images: UInt8[Tensor, "n 3 h w"],
    poses: Float[Tensor, "n 4 4"],
    camera: Camera,
    points: Points,
    config: FitConfig,
    device: torch.device,
    *,
    depths: Float[Tensor, "n h w"] | None = None,
    masks: Bool[Tensor, "n h w"] | None = None,
    saving: Saving | None = None,
) -> Gaussians:
    """Optimise Gaussians on `device` until their renderings equal the photographs.

    `poses` are world_from_camera; images and camera have the size to train at. `depths` (metres, 0
    where unknown) count with `config.depth_weight`; where `masks` are false the pictures do not
    count. With `saving` the state is stored now and then, and a fit that was interrupted goes on,
    on the CPU bit for bit. Every random choice follows from `config.seed`. Raises FitError for
    unusable input, a state of another fit, and a fit that diverges.
    """
    check(images, poses, camera, points)
    targets = Targets(images, depths, masks)
    course, state = begin(targets, poses, camera, points, config, device)
    mark = ""
    if saving is not None:
        mark = fingerprint(targets, poses, camera, points, config)
        if saving.resume:
            load_state(saving.state, state, mark, len(course.order))
    begun, first = time.monotonic(), state.iteration
    with log.progress("fit", len(course.order), "step") as tick:
        counted, reported, saved = 0, 0.0, begun
        while state.iteration < len(course.order):
            if state.iteration == config.iterations:
                _prune(state, course)
            terms, rgb = step(state, course)
            now, last = time.monotonic(), state.iteration == len(course.order)
            if last or now - reported >= _REPORT_EVERY_S:
                _report(tick, state, course, terms, rgb, state.iteration - counted)
                counted, reported = state.iteration, now
            # also in the end: what follows, and the caller's saving of the result, may fail
            if saving is not None and (last or now - saved >= saving.every_s):
                _store(saving, state, mark, config)
                saved = now
    # The last report has waited for the device.
    log.info(f"fit: {state.iteration - first:,} steps in {time.monotonic() - begun:.1f} s")
    fitted = visible(_finished(state, config))
    if not config.exposure:
        return fitted
    return with_exposures(fitted, course.targets, camera, course.camera_from_world)


def begin(
    targets: Targets,
    poses: Float[Tensor, "n 4 4"],
    camera: Camera,
    points: Points,
    config: FitConfig,
    device: torch.device,
) -> tuple[Course, FitState]:
    """All that the first step needs, on the device."""
    generator = torch.Generator(device).manual_seed(config.seed)
    extent_m = scene_extent_m(poses)
    parameters = initial_parameters(points, extent_m, config, generator)
    light = initial_light(len(poses), config, generator)
    weights = term_weights(config, extent_m)
    course = Course(
        targets.to(device),
        camera,
        geometry.invert(poses.double()).float().to(device),
        poses[:, :3, 3].float().to(device),
        {name: torch.tensor(value, device=device) for name, value in weights.items()},
        _image_order(len(poses), config).to(device),
        extent_m,
        scene_size_m(poses, points),
        config,
    )
    statistics = classic.no_statistics(parameters) if config.strategy == "classic" else None
    optimizer = adam(parameters, light, config)
    return course, FitState(parameters, light, optimizer, generator, statistics)


def step(state: FitState, course: Course) -> tuple[Terms, Float[Tensor, "b 3 h w"]]:
    """One optimisation step; returns the loss's terms and the pictures before it."""
    config, targets = course.config, course.targets
    done = min(state.iteration / config.iterations, 1.0)
    means_lr = config.means_lr * course.extent_m * _FINAL_MEANS_LR**done
    means_lr *= sqrt(config.images_per_step)
    state.optimizer.param_groups[0]["lr"] = means_lr
    set_learning_rates(state.optimizer, config, done)
    chosen = course.order[state.iteration]
    gaussians = assemble(state.parameters, state.light, config)
    how = shown(gaussians.appearance, chosen, config.appearance_dropout, state.generator)
    probe = None
    if state.statistics is not None and done < config.refine_stop:
        probe = gaussians.means.new_zeros(len(chosen), gaussians.num, 2, requires_grad=True)
    rendering = render(
        gaussians,
        course.camera,
        course.camera_from_world.index_select(0, chosen),
        with_depth=config.depth_weight > 0 and targets.depths is not None,
        exposure=None if config.exposure else how.exposure,
        colors=trained_colors(
            gaussians,
            course.centres.index_select(0, chosen),
            int(done * _SH_STAGES),
            how.codes,
        ),
        probe=probe,
    )
    terms = objective(gaussians, rendering, targets, chosen, config)
    torch.autograd.backward(list(terms.values()), [course.weights[name] for name in terms])
    update(state.optimizer)
    if probe is not None and probe.grad is not None and state.statistics is not None:
        classic.observe(state.statistics, probe.grad, course.camera)
    _change_density(state, course, means_lr)
    state.iteration += 1
    return terms, rendering.rgb.detach()


def _image_order(num: int, config: FitConfig) -> Int64[Tensor, "steps per_step"]:
    """Images of every step: random orders of all images, one after the other."""
    generator = torch.Generator().manual_seed(config.seed)
    num_steps = config.iterations + (config.finetune_iterations if config.prune else 0)
    needed = num_steps * config.images_per_step
    rounds = [torch.randperm(num, generator=generator) for _ in range(-(-needed // num))]
    return torch.cat(rounds)[:needed].view(num_steps, config.images_per_step)


def _prune(state: FitState, course: Course) -> None:
    """Remove the Gaussians that the photographs need least; the steps that follow mend the rest."""
    gaussians = _finished(state, course.config)
    scores = contributions(gaussians, course.camera, course.camera_from_world)
    kept = best(scores, course.config.prune)
    share = float(scores[kept].sum() / scores.sum().clamp(min=1e-9))
    density.take(state.parameters, state.optimizer, kept)
    if state.statistics is not None:
        state.statistics = classic.no_statistics(state.parameters)
    log.info(f"{gaussians.num:,} Gaussians pruned to {len(kept):,}: {share:.2%} of the pictures")


def _change_density(state: FitState, course: Course, means_lr: float) -> None:
    """Refine when it is time, and until the last time let MCMC's noise move the means.

    After that nothing that the noise could find would come alive again.
    """
    config, parameters, optimizer = course.config, state.parameters, state.optimizer
    done = state.iteration / config.iterations
    in_phase = config.refine_start < done < config.refine_stop
    due = in_phase and state.iteration % config.refine_every == 0
    if state.statistics is None:
        if due:
            density.relocate(parameters, optimizer, state.generator)
            density.grow(parameters, optimizer, config.max_gaussians, state.generator)
        if done < config.refine_stop and state.iteration % config.noise_every == 0:
            strength = means_lr * config.noise_lr * sqrt(config.noise_every)
            density.explore(parameters, strength, state.generator)
        return
    schedule = (state.iteration, config.iterations, config.refine_every)
    if due:
        state.statistics = classic.refine(
            parameters, optimizer, state.statistics, course.size_m, config.max_gaussians,
            state.generator, remove_huge=classic.was_reset(*schedule),
        )  # fmt: skip
    if classic.resets_at(*schedule):
        classic.reset_opacity(parameters, optimizer)


def _report(
    tick: log.Ticker,
    state: FitState,
    course: Course,
    terms: Terms,
    rgb: Float[Tensor, "b 3 h w"],
    num_steps: int,
) -> None:
    """Show where the fit is; the only place of the loop that waits for the device on purpose."""
    value = total(terms, term_weights(course.config, course.extent_m))
    if not value < float("inf"):
        raise FitError(
            f"the fit diverged: loss {value} at step {state.iteration}; lower the learning rates"
        )
    chosen = course.order[state.iteration - 1]
    psnr = shown_psnr(rgb, course.targets, chosen, course.config).item()
    num_gaussians = len(state.parameters["means"])
    tick(num_steps, loss=value, psnr=psnr, gaussians=f"{num_gaussians:,}")


def _store(saving: Saving, state: FitState, mark: str, config: FitConfig) -> None:
    """Keep the state, and what it looks like; a fit that diverged leaves the last good one."""
    gaussians = _finished(state, config)
    save_state(saving.state, state, mark)
    if saving.preview is not None:
        save_ply(saving.preview, gaussians)


def _finished(state: FitState, config: FitConfig) -> Gaussians:
    """The Gaussians as they are now, cut off from the fit."""
    for name, parameter in (state.parameters | state.light).items():
        if not parameter.isfinite().all():
            raise FitError(f"the fit diverged: {name} are not finite; lower the learning rates")
    parameters, light = _fixed(state.parameters), _fixed(state.light)
    return assemble(parameters, light, config)


def _fixed(learnt: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    return {n: nn.Parameter(p.detach(), requires_grad=False) for n, p in learnt.items()}
