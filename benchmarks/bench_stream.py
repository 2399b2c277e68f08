"""A training step with views drawn beside it: what streaming costs over the step alone."""

from itertools import count

import pytest
import torch

from benchmarks import clouds, workloads
from benchmarks.bench_views import misplaced
from benchmarks.harness import Measure, axis
from benchmarks.workloads import SEED, Scale
from rap.config import Precision, ViewsConfig
from rap.data.images import ImageBank
from rap.scene import Scene
from rap.synthesis.drawing import prepared
from rap.synthesis.stream import ViewStream
from rap.synthesis.views import anchors_of
from rap.train.step import optimise

NUM_VIEWS = 64
MIN_SPREAD = 10.0
"""Of a picture's pixels, in levels of 255: less is hardly one."""


@pytest.mark.parametrize("views_per_step", axis([0, 8], full=[32]))
@pytest.mark.parametrize("precision", axis(["fp32"], full=["bf16"]))
@pytest.mark.parametrize("splat", axis(["small"], full=["large", "fitted"]))
def bench_stream(
    measure: Measure, device: torch.device, scale: Scale, scene: Scene, bench_scene: str,
    views_per_step: int, precision: Precision, splat: str,
) -> None:  # fmt: skip
    """Views land in turn, one step after they were begun, and training goes on as without."""
    config = workloads.training_config(scale, precision)
    batch = workloads.training_batch(scene, 8, scale, device)
    learner = workloads.learner(config, device)
    shown = clouds.shown(splat, scale, device, bench_scene)
    camera = shown.camera.with_height(scale.image_height)
    empty = torch.zeros(NUM_VIEWS, 3, camera.height, camera.width, dtype=torch.uint8)
    bank = ImageBank(empty, torch.zeros(NUM_VIEWS, 4, 4), device, 2**33, pin_memory=False)
    stream = None
    views = ViewsConfig(
        stream_per_step=views_per_step, render_height=scale.render_height, min_coverage=0.3
    )
    anchors = anchors_of(shown.poses(NUM_VIEWS).to(device), views.bounds_margin_m)
    if views_per_step:
        ready = prepared(shown.gaussians, shown.eye.to(device), views)
        stream = ViewStream(bank, ready, camera, anchors, views)
    steps = count()

    def step() -> dict[str, torch.Tensor]:
        terms = optimise(learner, batch, config, 1.0)
        if stream is not None:
            number = next(steps)
            stream.advance(number, SEED + number)
        return terms

    result = measure(step, items=batch.sizes["pose"], unit="samples")

    plain = workloads.learner(config, device)
    reference = optimise(plain, batch, config, 1.0)
    for name, term in reference.items():
        close = abs(float(result.first[name]) - float(term)) <= 1e-3 * abs(float(term))
        result.check(close, f"{name} is {float(result.first[name]):.5f}, alone {float(term):.5f}")
    done = next(steps)
    landed = min(NUM_VIEWS, views_per_step * max(0, done - 1))
    there = bank.poses[:, 3, 3] == 1
    found = int(there.sum())
    result.check(found == landed, f"{found} views landed in {done} steps, not {landed}")
    if landed:
        spread = float(bank.images[there].float().flatten(1).std(dim=1).min())
        result.check(spread > MIN_SPREAD, f"a view deviates by {spread:.1f} levels: no picture")
        for ok, message in misplaced(bank.poses[there], anchors.at(there.nonzero()[:, 0]), views):
            result.check(ok, message)
    if stream is not None:
        stats = stream.take_stats()
        result.metric("streamed_views_per_step", stats.num_views / max(1, done))
        result.check(stats.num_views == views_per_step * done, f"{stats} after {done} steps")
