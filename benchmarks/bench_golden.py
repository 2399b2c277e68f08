"""Is it still right? Frozen inputs through the fast paths, against golden numbers of float64 twins.

Not timed to be gated: one call each. A deviation is a wrong answer, and red whatever the speed.
"""

import pytest
import torch

from benchmarks import frozen, frozen_views
from benchmarks.bench_views import misplaced
from benchmarks.harness import Measure, Result, axis
from rap.config import Precision, ViewsConfig
from rap.data.images import ImageBank
from rap.model.precision import precision_scope
from rap.synthesis.drawing import Shots, draw_images, prepared
from rap.synthesis.views import anchors_of, refresh_views


def check(result: Result[frozen.Numbers], part: str, tolerance: float, forward: bool) -> None:
    """Every quantity against its golden one; gradients are left out with `forward`."""
    worst, wrong = frozen.beyond(result.value, part, tolerance, forward=forward)
    result.metric("off_share", worst)
    result.check(not wrong, f"off the golden numbers of {part}: {', '.join(wrong)}")


@pytest.mark.parametrize("precision", axis(["fp32"], cuda=["bf16", "tf32", "fp16"]))
def bench_golden_network(measure: Measure, device: torch.device, precision: Precision) -> None:
    """Poses and features of four images, and in full precision the gradient of every part."""

    def step() -> frozen.Numbers:
        regressor = frozen.network(torch.float32, device)
        with precision_scope(precision, device):
            return frozen.network_numbers(regressor)

    half = precision in ("bf16", "fp16")
    check(measure(step, rounds=1), "network", frozen.TOLERANCE[precision], forward=half)


def bench_golden_render(measure: Measure, device: torch.device) -> None:
    """Colour, alpha, depth of two views and their gradient by every parameter of the Gaussians."""
    result = measure(lambda: frozen.render_numbers(torch.float32, device, "auto"), rounds=1)
    check(result, "render", frozen.RENDER_TOLERANCE, forward=False)


def bench_golden_losses(measure: Measure, device: torch.device) -> None:
    """Every loss term and its gradient."""
    result = measure(lambda: frozen.fast_losses(device), rounds=1)
    check(result, "losses", frozen.TOLERANCE["fp32"], forward=False)


def bench_golden_step(measure: Measure, device: torch.device) -> None:
    """Four terms of a training step, and the gradient of their weighted sum: none is left out.

    Then, unmeasured, how far a whole step of five terms moves network, average and discriminator.
    """
    result = measure(lambda: frozen.step_numbers(device), rounds=1)
    check(result, "step", frozen.TOLERANCE["fp32"], forward=False)
    moved = frozen.training_numbers(device)
    _, wrong = frozen.beyond(moved, "training", frozen.TOLERANCE["fp32"], forward=False)
    result.check(not wrong, f"off the golden numbers of training: {', '.join(wrong)}")


def bench_golden_views(measure: Measure, device: torch.device) -> None:
    """After a second refresh the bank holds what is seen at its poses: none is read too early.

    Then, unmeasured, whether a training's views lie as far from their photographs as they should.
    """
    cloud = frozen.gaussians(torch.float32, device)
    anchors = anchors_of(frozen.poses().float().to(device), 0.5)
    empty = torch.zeros(8, 3, frozen.CAMERA.height, frozen.CAMERA.width, dtype=torch.uint8)
    bank = ImageBank(empty, torch.zeros(8, 4, 4), device, 2**30, pin_memory=False)
    config = ViewsConfig(min_coverage=0.0, translation_m=0.2, rotation_deg=10.0)
    ready = prepared(cloud, anchors.world_from_camera[0, :3, 3], config)

    @torch.no_grad()
    def refreshed_twice() -> torch.Tensor:
        for seed in (1, 2):
            generator = torch.Generator(device).manual_seed(seed)
            refresh_views(bank, ready, frozen.CAMERA, anchors, config, generator)
        return bank.images.clone()

    result = measure(refreshed_twice, rounds=1)
    with torch.no_grad():
        seen, _ = draw_images(ready, frozen.CAMERA, Shots(bank.poses), config)
    off = int((seen.int() - result.value.int()).abs().max())
    result.check(float(seen.float().std()) > 5, "hardly anything is seen")
    result.check(off <= 1, f"the bank's images differ by {off} from what its poses see")
    for ok, message in misplaced(bank.poses, anchors, config):
        result.check(ok, message)
    wrong = frozen_views.beyond_the_law(frozen_views.drawn_shares(device))
    result.check(not wrong, f"shares of views are off the law of their draw: {', '.join(wrong)}")
