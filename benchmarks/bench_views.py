"""Random view synthesis: poses, light, rendering, shrinking, filter, write into the bank."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks import clouds, filters
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import SEED, Scale
from rap.camera import Camera
from rap.config import ViewsConfig
from rap.data.images import ImageBank
from rap.geometry import invert, rotation_angle_deg
from rap.splat.gaussians import Gaussians
from rap.splat.order import in_order
from rap.splat.prune import best, contributions
from rap.splat.quality import psnr
from rap.synthesis.drawing import Shots, draw_images, drawn_at, prepared
from rap.synthesis.views import Anchors, RefreshStats, anchors_of, draw_shots, refresh_views

NUM_ANCHORS = 32
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_filter": {"min_coverage": 0.0},
    "usual_filter": {"min_coverage": ViewsConfig.min_coverage},
    "brisque": {},
    "one_attempt": {"max_attempts": 1},
    "network_size": {"render_height": None},
    "baked": {"colors": "baked"},
    "torch_colors": {"fused_colors": False},
    "unordered": {"morton_order": False},
    "packed": {"packed": True},
    "gsplat_blend": {"fused_blend": False},
    "gsplat_projection": {"fused_projection": False},
    "tiles_of_8": {"tile_size": 8, "fused_projection": False},
    "clip_2px": {"radius_clip_px": 2.0},
    "degree_0": {"sh_degree": 0},
    "pruned": {},
}
PRUNED = 0.5
"""Share of the Gaussians that `pruned` leaves out, by their weight in the anchors' views."""
LEAST_SHARE = 0.15
"""Of the reach, that mean turn and mean shift exceed; eight even draws do but once in 10,000."""
NUM_COMPARED = 8
"""Views whose pictures are compared with those of the plain settings."""


def by_default(switch: str, light: str, render_batch: int, splat: str) -> bool:
    """The largest one takes gigabytes."""
    return splat != "huge"


def possible(switch: str, light: str, render_batch: int, splat: str) -> bool:
    """The curve over the number of Gaussians is one line."""
    return splat not in clouds.CURVE_ONLY or (switch, light, render_batch) == ("plain", "own", 32)


CASES = [case for case in combine(
    axis(["plain"], cuda=["network_size"], full=list(SWITCHES)), axis(["own"], full=["mean"]),
    axis([32], full=[1, 8]), clouds.SPLATS, default=by_default,
) if possible(*case.values)]  # fmt: skip


@pytest.mark.parametrize(("switch", "light", "render_batch", "splat"), CASES)
def bench_views(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, device: torch.device, scale: Scale,
    bench_scene: str, switch: str, light: str, render_batch: int, splat: str,
) -> None:  # fmt: skip
    """Every view in its own light, drawn at full height; the bank holds what its poses show.

    The filter is so strict that it rejects a part; at photographs of a scene (`--scene`), and with
    `usual_filter`, it is that of a training, which may reject none. What a switch costs in picture
    is its `psnr_db` from the same views by the plain settings.
    """
    shown = clouds.shown(splat, scale, device, bench_scene)
    camera = shown.camera.with_height(scale.image_height)
    assert shown.gaussians.appearance is not None
    assert shown.gaussians.appearance.num_codes, "every view is to have its own light"
    gaussians = shown.gaussians if light == "own" else replace(shown.gaussians, appearance=None)
    per_anchor = 8 if device.type == "cuda" else 1
    num_anchors = NUM_ANCHORS if device.type == "cuda" else 8
    num = num_anchors * per_anchor
    anchors = anchors_of(shown.poses(num_anchors).to(device), 0.2)
    plain = ViewsConfig(render_batch=render_batch, render_height=scale.render_height)
    if switch == "brisque":
        filters.with_stand_in(monkeypatch)
    kind = "brisque" if switch == "brisque" else "coverage"
    strict = (shown.photographed is None or switch == "brisque") and switch != "usual_filter"
    if strict:
        plain = filters.filtered(plain, kind, gaussians, camera, anchors.world_from_camera)
    config = replace(plain, **SWITCHES[switch])
    empty = torch.zeros(num, 3, camera.height, camera.width, dtype=torch.uint8)
    bank = ImageBank(empty, torch.zeros(num, 4, 4), device, 2**33, pin_memory=False)
    drawn = gaussians if switch != "pruned" else pruned(gaussians, drawn_at(camera, plain), anchors)
    ready = prepared(drawn, shown.eye.to(device), config)
    generator = torch.Generator(device)

    result = measure(
        lambda: refresh_views(
            bank, ready, camera, anchors, config, generator.manual_seed(SEED)
        ),
        items=num, unit="views", moves_bytes=bank.images.nbytes,
    )  # fmt: skip

    stats = result.value
    result.metric("num_gaussians", ready.num)
    note_renders(measure, stats)
    for ok, message in counted(stats, num, config, strict):
        result.check(ok, message)
    for ok, message in misplaced(bank.poses, anchors, config):
        result.check(ok, message)
    shots = kept_shots(ready, bank, anchors, config, generator, stats.num_attempts)
    off = largest_difference(ready, camera, shots, config, bank)
    result.check(off <= 1, f"the bank's images differ by {off} from its views drawn again")
    some = shots.part(slice(NUM_COMPARED))
    reference = prepared(gaussians, shown.eye.to(device), plain)
    expected, _ = draw_images(reference, camera, some, plain)
    agreement = float(psnr(bank.images[:NUM_COMPARED] / 255, expected / 255).mean())
    result.metric("psnr_db", min(agreement, 100.0))
    result.check(agreement >= 15, f"{agreement:.1f} dB from the plain settings")
    spread = float(bank.images.float().std())
    result.check(spread > 10, f"the bank's images deviate by {spread:.1f} levels: hardly a picture")


def note_renders(measure: Measure, stats: RefreshStats) -> None:
    """What the filter rejects is drawn, scored and written as well: its rate beside the kept."""
    per_view = stats.num_renders / stats.num_views
    measure.metric("acceptance_share", stats.acceptance)
    measure.metric("renders_per_view", per_view)
    kept_per_s = measure.record.metrics.get("views_per_s")
    if kept_per_s is not None:
        measure.metric("renders_per_s", per_view * kept_per_s)


def pruned(gaussians: Gaussians, camera: Camera, anchors: Anchors) -> Gaussians:
    """The splat without the Gaussians that weigh least in the anchors' views, as a fit prunes."""
    scores = contributions(gaussians, camera, invert(anchors.world_from_camera))
    return in_order(gaussians, best(scores, PRUNED))


def kept_shots(
    gaussians: Gaussians, bank: ImageBank, anchors: Anchors, config: ViewsConfig,
    generator: torch.Generator, num_attempts: int,
) -> Shots:  # fmt: skip
    """The light and poses of the bank's views: of each, those of the attempt that it kept."""
    generator.manual_seed(SEED)
    near = anchors.world_from_camera.repeat_interleave(
        bank.num // len(anchors.world_from_camera), dim=0
    )
    found = draw_shots(gaussians, near, anchors, config, generator)
    for _ in range(num_attempts - 1):
        shots = draw_shots(gaussians, near, anchors, config, generator)
        same = (shots.world_from_camera == bank.poses).flatten(1).all(dim=1)
        for mine, new in zip(tensors(found), tensors(shots), strict=True):
            mine[same] = new[same]
    return found


def tensors(shots: Shots) -> list[Tensor]:
    """Poses and light, where there is light."""
    parts = (shots.world_from_camera, shots.codes, shots.exposure)
    return [part for part in parts if part is not None]


def largest_difference(
    gaussians: Gaussians, camera: Camera, shots: Shots, config: ViewsConfig, bank: ImageBank
) -> int:
    """Levels between the bank's images and those of its views drawn a few at a time."""
    off = 0
    for part in torch.arange(bank.num, device=bank.device).split(8):
        again, _ = draw_images(gaussians, camera, shots.part(part), config)
        off = max(off, int((again.int() - bank.images[part].int()).abs().max()))
    return off


def counted(
    stats: RefreshStats, num: int, config: ViewsConfig, strict: bool
) -> Iterator[tuple[bool, str]]:
    """Whether every view was drawn, and some again where there is a filter that rejects some."""
    yield stats.num_views == num, f"{stats.num_views} views instead of {num}"
    filtered = max(config.min_coverage, config.max_brisque) > 0 and config.max_attempts > 1
    more, least = stats.num_renders > num, stats.num_renders >= num
    right = more == filtered if strict or not filtered else least
    yield right, f"{stats.num_renders} renders for {num}"


def misplaced(
    world_from_camera: Float[Tensor, "n 4 4"], anchors: Anchors, config: ViewsConfig
) -> Iterator[tuple[bool, str]]:
    """Whether views lie near their anchors and within the bounds, yet are not the anchors' own.

    Turns are drawn evenly up to the largest, so their mean is its half; shifts evenly in a ball,
    which gives 0.75, but bounds and filter may keep a camera near where it was.
    """
    per_anchor = len(world_from_camera) // len(anchors.world_from_camera)
    source = anchors.world_from_camera.repeat_interleave(per_anchor, dim=0)
    centre = world_from_camera[:, :3, 3]
    shifts = (centre - source[:, :3, 3]).norm(dim=1)
    turns = rotation_angle_deg(source[:, :3, :3], world_from_camera[:, :3, :3])
    shift, turn = float(shifts.max()), float(turns.max())
    near = shift < config.translation_m + 1e-4 and turn < config.rotation_deg + 0.1
    yield near, f"a view is {shift:.3f} m and {turn:.2f} degrees from its photograph"
    inside = bool(((centre >= anchors.low) & (centre <= anchors.high)).all())
    yield inside, "a view lies outside the bounds"
    usual = (float(shifts.mean()), float(turns.mean()))
    least = (LEAST_SHARE * config.translation_m, LEAST_SHARE * config.rotation_deg)
    elsewhere = usual[0] >= least[0] and usual[1] >= least[1]
    yield elsewhere, f"views are {usual[0]:.3f} m and {usual[1]:.2f} degrees from photographs"
