"""Random view synthesis: sample poses, render them, filter, write into the image bank."""

import pytest
import torch

from benchmarks import workloads
from benchmarks.harness import Measure, axis
from benchmarks.workloads import Scale
from rap.config import ViewsConfig
from rap.data.images import ImageBank
from rap.geometry import rotation_angle_deg
from rap.scene import Scene, poses
from rap.synthesis.views import anchors_of, refresh_views, render_images

PER_IMAGE = 2
REJECTED = 0.05
"""Share of the training poses that the filter would reject; of the views it is a few times more."""


@pytest.mark.parametrize("splat", axis(["small"], full=["large"]))
@pytest.mark.parametrize("render_batch", axis([32], full=[1, 8]))
@pytest.mark.parametrize("filtered", axis([True], full=[False]))
def bench_views(
    measure: Measure, device: torch.device, scale: Scale, scene: Scene,
    splat: str, render_batch: int, filtered: bool,
) -> None:  # fmt: skip
    """The bank holds what its poses show, near the photographs, and the filter's count is true."""
    camera = scene.camera.with_height(scale.image_height)
    gaussians = workloads.splat(scene, scale.num_gaussians[splat], scale.sh_degree, device)
    config = ViewsConfig(per_image=PER_IMAGE, render_batch=render_batch)
    anchors = anchors_of(poses(scene.train).float().to(device), config.bounds_margin_m)
    _, coverage = render_images(gaussians, camera, anchors.world_from_camera)
    enough = float(coverage.quantile(REJECTED)) if filtered else 0.0
    config = ViewsConfig(per_image=PER_IMAGE, render_batch=render_batch, min_coverage=enough)
    num = PER_IMAGE * len(scene.train)
    empty = torch.zeros(num, 3, camera.height, camera.width, dtype=torch.uint8)
    bank = ImageBank(empty, torch.zeros(num, 4, 4), device, 2**33, pin_memory=False)
    generator = torch.Generator(device)

    result = measure(
        lambda: refresh_views(
            bank, gaussians, camera, anchors, config, generator.manual_seed(workloads.SEED)
        ),
        items=num, unit="views",
    )  # fmt: skip

    stats = result.value
    result.metric("renders_per_view", stats.num_renders / num)
    result.check(stats.num_views == num, f"{stats.num_views} views instead of {num}")
    result.check((stats.num_renders > num) == filtered, f"{stats.num_renders} renders for {num}")
    again = [render_images(gaussians, camera, chunk) for chunk in bank.poses.split(32)]
    images, coverage = (torch.cat(parts) for parts in zip(*again, strict=True))
    off = int((images.int() - bank.images.int()).abs().max())
    result.check(off <= 1, f"the bank's images differ by {off} from renderings at its poses")
    below = int((coverage < enough).sum())
    result.check(stats.num_below_filter == below, f"{below} views below, not {stats}")
    source = anchors.world_from_camera.repeat_interleave(PER_IMAGE, dim=0)
    centre = bank.poses[:, :3, 3]
    shift = float((centre - source[:, :3, 3]).norm(dim=1).max())
    turn = float(rotation_angle_deg(source[:, :3, :3], bank.poses[:, :3, :3]).max())
    near = shift < config.translation_m + 1e-4 and turn < config.rotation_deg + 0.1
    result.check(near, f"a view is {shift:.3f} m and {turn:.2f} degrees from its photograph")
    inside = bool(((centre >= anchors.low) & (centre <= anchors.high)).all())
    result.check(inside, "a view lies outside the bounds")
