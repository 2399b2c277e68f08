"""Random view synthesis: sample poses, render them in batches, keep the good ones in the bank."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rap.camera import Camera
from rap.config import ViewsConfig
from rap.data.images import ImageBank
from rap.geometry import invert
from rap.splat.gaussians import Gaussians
from rap.splat.render import render
from rap.synthesis.sampling import sample_poses


@dataclass(frozen=True)
class Anchors:
    """Where views may lie: the poses to start from and the box that they must stay in."""

    world_from_camera: Float[Tensor, "n 4 4"]
    low: Float[Tensor, "3"]
    high: Float[Tensor, "3"]


@dataclass(frozen=True)
class RefreshStats:
    """What one refresh cost: views kept, renders made, views kept although below the filter."""

    num_views: int
    num_renders: int
    num_below_filter: int


def anchors_of(world_from_camera: Float[Tensor, "n 4 4"], margin_m: float) -> Anchors:
    """Anchors at the training poses, bounded by their centres' box widened by a margin."""
    centre = world_from_camera[:, :3, 3]
    return Anchors(world_from_camera, centre.amin(0) - margin_m, centre.amax(0) + margin_m)


@torch.no_grad()
def render_images(
    gaussians: Gaussians,
    camera: Camera,
    world_from_camera: Float[Tensor, "v 4 4"],
) -> tuple[UInt8[Tensor, "v 3 h w"], Float[Tensor, "v"]]:
    """Pictures as uint8 and the mean alpha (coverage) of each, in one call."""
    drawn = render(gaussians, camera, invert(world_from_camera))
    images = drawn.rgb.clamp(0, 1).mul(255).add_(0.5).to(torch.uint8)
    return images, drawn.alpha.mean(dim=(1, 2))


def refresh_views(
    bank: ImageBank,
    gaussians: Gaussians,
    camera: Camera,
    anchors: Anchors,
    config: ViewsConfig,
    generator: torch.Generator,
) -> RefreshStats:
    """Redraw every view of the bank, `config.per_image` per anchor, in anchor order.

    A view with less coverage than the filter asks for is redrawn; after `max_attempts` the best
    attempt stays and is counted. The host waits once per attempt, for the number of rejects.
    """
    num = bank.num
    device = anchors.world_from_camera.device
    source = anchors.world_from_camera.repeat_interleave(config.per_image, dim=0)
    best = torch.empty(num, device=device)
    pending = torch.arange(num, device=device)
    num_renders = 0
    for attempt in range(config.max_attempts):
        for chunk in pending.split(config.render_batch):
            poses = sample_poses(
                source[chunk], translation_m=config.translation_m,
                rotation_deg=config.rotation_deg, low=anchors.low, high=anchors.high,
                generator=generator,
            )  # fmt: skip
            images, coverage = render_images(gaussians, camera, poses)
            if attempt:
                better = coverage > best[chunk]
                chunk, images, poses = chunk[better], images[better], poses[better]
                coverage = coverage[better]
            bank.write(chunk, images, poses)
            best[chunk] = coverage
        num_renders += len(pending)
        pending = (best < config.min_coverage).nonzero().squeeze(1)
        if len(pending) == 0:
            break
    return RefreshStats(num, num_renders, len(pending))
