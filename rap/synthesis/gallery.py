"""What the filter lets through and what it does not, as a picture for a person to look at."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from rap.camera import Camera
from rap.config import ViewsConfig
from rap.splat.gaussians import Gaussians
from rap.splat.sheet import Group, grouped_sheet
from rap.synthesis.drawing import draw_images, prepared, views_at_once
from rap.synthesis.filter import accept, badness, brisque, load_brisque
from rap.synthesis.views import anchors_of, draw_shots

NUM_VIEWS = 96
_SHOWN = 18


@dataclass(frozen=True, eq=False)
class Judged:
    """Views as they were drawn first, and what the filter measures in them. On the CPU."""

    images: UInt8[Tensor, "n 3 h w"]
    coverage: Float[Tensor, " n"]
    scores: Float[Tensor, " n"] | None
    """BRISQUE; none: the settings do not ask for it."""


@torch.no_grad()
def judged_views(
    gaussians: Gaussians,
    camera: Camera,
    world_from_camera: Float[Tensor, "n 4 4"],
    config: ViewsConfig,
    generator: torch.Generator,
    num: int = NUM_VIEWS,
    exposure: Float[Tensor, "n 3 4"] | None = None,
) -> Judged:
    """One attempt at each of `num` views near the poses, drawn as a training draws them.

    `exposure` is that of the photographs at the poses, where the splat knows it. DataError where
    the settings ask for BRISQUE and its parameters are not installed.
    """
    device = gaussians.means.device
    model = load_brisque().to(device) if config.max_brisque else None
    world_from_camera = world_from_camera.to(device)
    gaussians = prepared(gaussians, world_from_camera[:, :3, 3].mean(0), config)
    anchors = anchors_of(world_from_camera, config.bounds_margin_m, exposure)
    anchors = anchors.at(torch.arange(num, device=device) % len(world_from_camera))
    shots = draw_shots(gaussians, anchors.world_from_camera, anchors, config, generator)
    images, coverage, scores = [], [], []
    for part in torch.arange(num, device=device).split(views_at_once(gaussians, camera, config)):
        drawn, covered = draw_images(gaussians, camera, shots.part(part), config)
        images.append(drawn.cpu())
        coverage.append(covered.cpu())
        if model is not None:
            scores.append(brisque(drawn / 255, model).cpu())
    return Judged(torch.cat(images), torch.cat(coverage), torch.cat(scores) if scores else None)


def filter_sheet(path: Path, views: Judged, config: ViewsConfig) -> Bool[Tensor, " n"]:
    """Write a PNG of accepted and of rejected views, from good to bad; returns which pass.

    Of each kind up to 18, evenly spread over the order.
    """
    passed = accept(views.coverage, views.scores, config)
    quality = -views.coverage if views.scores is None else views.scores
    order = torch.where(passed, quality, badness(views.coverage, views.scores, config)).argsort()
    limits = f"coverage at least {config.min_coverage:.0%}"
    if views.scores is not None:
        limits += f", BRISQUE at most {config.max_brisque:g}"
    num = f"of {len(passed)} views"
    accepted, rejected = order[passed[order]], order[~passed[order]]
    groups = [
        _group(views, accepted, f"accepted: {len(accepted)} {num} ({limits})"),
        _group(views, rejected, f"rejected: {len(rejected)} {num}"),
    ]
    grouped_sheet(path, groups)
    return passed


def _group(views: Judged, index: Int64[Tensor, " k"], title: str) -> Group:
    """Some of these views, evenly spread, with what was measured in each."""
    shown = min(_SHOWN, len(index))
    index = index[[i * len(index) // shown for i in range(shown)]]
    captions = [f"coverage {value:.0%}" for value in views.coverage[index].tolist()]
    if views.scores is not None:
        scores = views.scores[index].tolist()
        captions = [
            f"{caption}, BRISQUE {score:.0f}"
            for caption, score in zip(captions, scores, strict=True)
        ]
    return Group(title, views.images[index], captions)
