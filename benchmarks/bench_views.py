"""Random view synthesis: poses, light, rendering, shrinking, filter, write into the bank."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks import clouds
from benchmarks.harness import Measure, axis
from benchmarks.workloads import SEED, Scale
from rap.config import ViewsConfig
from rap.data.images import ImageBank
from rap.geometry import rotation_angle_deg
from rap.synthesis.drawing import Shots, draw_images, prepared
from rap.synthesis.views import Anchors, anchors_of, refresh_views

NUM_ANCHORS = 32
REJECTED = 0.05
"""Share of the anchors' own views that the filter would reject."""
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_filter": {"min_coverage": 0.0},
    "one_attempt": {"max_attempts": 1},
    "network_size": {"render_height": None},
    "baked": {"colors": "baked"},
    "torch_colors": {"fused_colors": False},
    "unordered": {"morton_order": False},
    "packed": {"packed": True},
    "tiles_of_8": {"tile_size": 8},
    "clip_2px": {"radius_clip_px": 2.0},
    "degree_0": {"sh_degree": 0},
}


@pytest.mark.parametrize("splat", axis(["small"], cuda=["large"], full=["fitted"]))
@pytest.mark.parametrize("render_batch", axis([32], full=[1, 8]))
@pytest.mark.parametrize("light", axis(["own"], full=["mean"]))
@pytest.mark.parametrize("switch", axis(["plain"], cuda=["network_size"], full=list(SWITCHES)))
def bench_views(
    measure: Measure, device: torch.device, scale: Scale,
    splat: str, render_batch: int, light: str, switch: str,
) -> None:  # fmt: skip
    """Every view in its own light, drawn at full height; the bank holds what its poses show."""
    shown = clouds.shown(splat, scale, device)
    camera = shown.camera.with_height(scale.image_height)
    assert shown.gaussians.appearance is not None
    assert shown.gaussians.appearance.num_codes, "every view is to have its own light"
    gaussians = shown.gaussians if light == "own" else replace(shown.gaussians, appearance=None)
    per_anchor = 8 if device.type == "cuda" else 1
    num_anchors = NUM_ANCHORS if device.type == "cuda" else 8
    num = num_anchors * per_anchor
    anchors = anchors_of(shown.poses(num_anchors).to(device), 0.2)
    plain = ViewsConfig(render_batch=render_batch, render_height=scale.render_height)
    _, coverage = draw_images(gaussians, camera, Shots(anchors.world_from_camera), plain)
    plain = replace(plain, min_coverage=float(coverage.quantile(REJECTED)))
    config = replace(plain, **SWITCHES[switch])
    empty = torch.zeros(num, 3, camera.height, camera.width, dtype=torch.uint8)
    bank = ImageBank(empty, torch.zeros(num, 4, 4), device, 2**33, pin_memory=False)
    ready = prepared(gaussians, shown.eye.to(device), config)
    generator = torch.Generator(device)

    result = measure(
        lambda: refresh_views(
            bank, ready, camera, anchors, config, generator.manual_seed(SEED)
        ),
        items=num, unit="views", moves_bytes=bank.images.nbytes,
    )  # fmt: skip

    stats = result.value
    result.metric("num_gaussians", gaussians.num)
    result.metric("acceptance_share", stats.acceptance)
    result.metric("renders_per_view", stats.num_renders / num)
    result.check(stats.num_views == num, f"{stats.num_views} views instead of {num}")
    retried = config.min_coverage > 0 and config.max_attempts > 1
    result.check((stats.num_renders > num) == retried, f"{stats.num_renders} renders for {num}")
    for ok, message in misplaced(bank, anchors, config):
        result.check(ok, message)
    if light == "mean":
        again = [draw_images(ready, camera, Shots(chunk), config)[0]
                 for chunk in bank.poses.split(8)]  # fmt: skip
        off = int((torch.cat(again).int() - bank.images.int()).abs().max())
        result.check(off <= 1, f"the bank's images differ by {off} from renderings at its poses")
    spread = float(bank.images.float().std())
    result.check(spread > 10, f"the bank's images deviate by {spread:.1f} levels: hardly a picture")


def misplaced(bank: ImageBank, anchors: Anchors, config: ViewsConfig) -> Iterator[tuple[bool, str]]:
    """Whether every view lies near its anchor and within the bounds, and what to say if not."""
    per_anchor = bank.num // len(anchors.world_from_camera)
    source = anchors.world_from_camera.repeat_interleave(per_anchor, dim=0)
    centre = bank.poses[:, :3, 3]
    shift = float((centre - source[:, :3, 3]).norm(dim=1).max())
    turn = float(rotation_angle_deg(source[:, :3, :3], bank.poses[:, :3, :3]).max())
    near = shift < config.translation_m + 1e-4 and turn < config.rotation_deg + 0.1
    yield near, f"a view is {shift:.3f} m and {turn:.2f} degrees from its photograph"
    inside = bool(((centre >= anchors.low) & (centre <= anchors.high)).all())
    yield inside, "a view lies outside the bounds"
