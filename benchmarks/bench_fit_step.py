"""Ten optimisation steps of a splat at its full number of Gaussians, and one refinement."""

from dataclasses import replace

import pytest
import torch

from benchmarks import paths, workloads
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import Scale
from rap.config import FitConfig
from rap.config.splats import Strategy
from rap.scene import Scene, poses
from rap.splat import classic, density
from rap.splat.fit import Course, begin, step
from rap.splat.gaussians import Gaussians
from rap.splat.initial import assemble
from rap.splat.objective import Targets, Terms, term_weights, total
from rap.splat.quality import psnr
from rap.splat.render import render
from rap.splat.state import FitState

MIN_PSNR_DB = 50.0
GENTLY = {"scales_lr": 2e-4, "opacities_lr": 2e-3}
"""Footprints and opacities decide what a step costs, so they may change but slowly."""
STEPS = 10
"""Of a call, the last of which refines: ten times as often as by default, so that every call does.
"""
ROOM = 1.1
"""The limit over the Gaussians at first: two refinements of `mcmc` fill it, before time counts."""


def by_default(strategy: str, ssim_weight: float, images_per_step: int) -> bool:
    """Both strategies as they are; loss and batch vary with --full."""
    return (ssim_weight, images_per_step) == (0.2, 1)


@pytest.mark.parametrize(
    ("strategy", "ssim_weight", "images_per_step"),
    combine(axis(["mcmc", "classic"]), axis([0.2, 0.0]), axis([1, 4]), default=by_default),
)
def bench_fit_step(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, device: torch.device, scale: Scale,
    scene: Scene,
    strategy: Strategy, ssim_weight: float, images_per_step: int,
) -> None:  # fmt: skip
    """The loss falls, and what was fitted looks the same to the plain rasteriser in float64.

    Gaussians were moved to where they are needed, and added.
    """
    camera = scene.camera.with_height(scale.render_height)
    num = scale.num_gaussians["small"]
    config = FitConfig(
        strategy=strategy, ssim_weight=ssim_weight, images_per_step=images_per_step,
        sh_degree=scale.sh_degree, max_gaussians=num, initial_points=int(num / ROOM),
        iterations=workloads.FIT_STEPS, refine_every=STEPS, seed=workloads.SEED, **GENTLY,
    )  # fmt: skip
    course, state = begin(
        Targets(workloads.photographs(scene, scale.render_height)),
        poses(scene.train), camera, workloads.dense_points(scene, config.initial_points), config,
        device,
    )  # fmt: skip
    # the same photographs in every step, so that losses can be compared
    course = replace(course, order=course.order[:1].expand_as(course.order))
    # in the second half: all harmonics, Gaussians still move, opacities are no longer reset
    state.iteration = config.iterations // 2 + 1
    owner, name = (density, "grow") if strategy == "mcmc" else (classic, "refine")
    refinements = paths.count_calls(monkeypatch, owner, name)
    at_first = len(state.parameters["means"])

    def steps() -> Terms:
        for _ in range(STEPS - 1):
            step(state, course)
        return step(state, course)[0]

    result = measure(
        steps, items=STEPS * images_per_step, unit="images",
        moves_bytes=STEPS * moved_bytes(state, course),
    )  # fmt: skip
    num_calls = (state.iteration - config.iterations // 2 - 1) // STEPS
    ran = refinements.num
    result.check(ran == num_calls, f"{ran} refinements in {num_calls} calls")
    result.check(len(state.parameters["means"]) > at_first, "no refinement added a Gaussian")
    if measure.timed:
        weights = term_weights(config, course.extent_m)
        first, last = total(result.first, weights), total(result.value, weights)
        result.check(last < first, f"no step lowers the loss: {first:.4f}, then {last:.4f}")
    fitted = assemble(state.parameters, state.light, config)
    result.check(0.5 * num <= fitted.num <= num, f"{fitted.num} Gaussians where {num} were allowed")
    with torch.no_grad():
        view = course.camera_from_world[:1]
        drawn = render(fitted, camera, view).rgb
        exact = render(in_float64(fitted), camera, view.double(), backend="reference").rgb
    agreement = float(psnr(drawn, exact.float()))
    result.check(agreement >= MIN_PSNR_DB, f"{agreement:.1f} dB from the plain rasteriser")


def moved_bytes(state: FitState, course: Course) -> int:
    """The least that a step moves: all that is learnt and its gradients, and its pictures.

    Each parameter and Adam's two moments of it are read and written, its gradient is written and
    read; a photograph's bytes are read, four floats of each drawn pixel written.
    """
    learnt = (state.parameters | state.light).values()
    images = course.targets.images[: course.order.shape[1]]
    pixels = images.numel() // 3
    return 8 * sum(parameter.nbytes for parameter in learnt) + images.nbytes + 16 * pixels


def in_float64(gaussians: Gaussians) -> Gaussians:
    """The same Gaussians for the exact picture."""
    return replace(
        gaussians,
        means=gaussians.means.double(),
        quats=gaussians.quats.double(),
        log_scales=gaussians.log_scales.double(),
        opacity_logits=gaussians.opacity_logits.double(),
        sh=gaussians.sh.double(),
    )
