"""Pictures of Gaussians, several views in one call."""

import importlib
from dataclasses import dataclass

import pytest
import torch

from benchmarks import clouds, paths
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import Scale
from rap.geometry import invert
from rap.splat import reference
from rap.splat.colors import baked, view_colors
from rap.splat.quality import psnr
from rap.splat.render import Rendering, render
from rap.splat.tuning import RenderTuning
from rap.synthesis.drawing import shrunk

MIN_PSNR_DB = 50.0
UNTUNED = RenderTuning()


@dataclass(frozen=True)
class Switch:
    """One change of the plain call, in which every view has its own light."""

    tuning: RenderTuning = UNTUNED
    colors: str = "evaluated"
    """`evaluated` in the call, `given` to it, `baked` for one point, or `mean` light."""
    small: bool = False
    """Drawn at the network's size, and compared with the large picture shrunk to it."""
    exact: bool = True
    """Whether the picture is that of the plain call."""


SWITCHES = {
    "plain": Switch(),
    "packed": Switch(RenderTuning(packed=True)),
    "tiles_of_8": Switch(RenderTuning(tile_size=8)),
    "torch_colors": Switch(RenderTuning(fused_colors=False)),
    "colors_given": Switch(colors="given"),
    "mean_light": Switch(colors="mean", exact=False),
    "baked": Switch(colors="baked", exact=False),
    "clip_2px": Switch(RenderTuning(radius_clip_px=2.0), exact=False),
    "degree_0": Switch(RenderTuning(sh_degree=0), exact=False),
    "network_size": Switch(small=True, exact=False),
}


def by_default(switch: str, num_views: int, splat: str) -> bool:
    """The largest one takes gigabytes."""
    return splat != "huge"


def possible(switch: str, num_views: int, splat: str) -> bool:
    """The curve over the number of Gaussians is of the plain call."""
    return splat not in clouds.CURVE_ONLY or switch == "plain"


CASES = [case for case in combine(
    axis(["plain"], full=list(SWITCHES)), axis([8], full=[1, 32]), clouds.SPLATS,
    default=by_default,
) if possible(*case.values)]  # fmt: skip


@pytest.mark.parametrize(("switch", "num_views", "splat"), CASES)
def bench_render(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, device: torch.device, scale: Scale,
    switch: str, num_views: int, splat: str,
) -> None:  # fmt: skip
    """gsplat on a GPU, the plain rasteriser elsewhere; the plain one in float64 agrees.

    What a switch costs in picture is its `psnr_db` from the plain call; exact ones keep 50 dB.
    """
    chosen = SWITCHES[switch]
    shown = clouds.shown(splat, scale, device)
    camera = shown.camera.with_height(scale.image_height if chosen.small else scale.render_height)
    camera_from_world = invert(shown.poses(num_views).to(device))
    light = shown.gaussians.appearance
    assert light is not None
    assert light.num_codes, "every view is to have its own light"
    codes = light.codes[torch.arange(num_views, device=device) % light.num_images]
    plain = paths.count_calls(monkeypatch, reference, "rasterize")
    on_gpu = device.type == "cuda"
    drawn_by = plain
    if on_gpu:
        gsplat = importlib.import_module("gsplat.rendering")
        drawn_by = paths.count_calls(monkeypatch, gsplat, "rasterization")
    gaussians, colors = shown.gaussians, None
    if chosen.colors == "baked":
        gaussians = baked(gaussians, shown.eye.to(device))
    with torch.no_grad():
        if chosen.colors == "given":
            colors = view_colors(gaussians, camera_from_world, codes)

        def draw() -> Rendering:
            return render(
                gaussians, camera, camera_from_world, tuning=chosen.tuning, colors=colors,
                codes=codes if chosen.colors in ("evaluated", "baked") else None,
            )  # fmt: skip

        read = sum(part.nbytes for part in clouds.parameters(gaussians))
        written = 16 * num_views * camera.width * camera.height
        result = measure(
            draw, items=num_views, unit="views", clock="gpu", moves_bytes=read + written
        )
        result.check(drawn_by.num > 0, "was not drawn by the rasteriser of this device")
        result.check(not on_gpu or plain.num == 0, "was drawn by the plain rasteriser")
        exact = render(
            clouds.in_float64(shown.gaussians), shown.camera, camera_from_world[-1:].double(),
            codes=codes[-1:].double(), backend="reference",
        ).rgb.float()  # fmt: skip
    exact = shrunk(exact, camera.height, camera.width)
    agreement = float(psnr(result.value.rgb[-1:], exact))
    result.metric("num_gaussians", gaussians.num)
    result.metric("psnr_db", min(agreement, 100.0))
    close = agreement >= (MIN_PSNR_DB if chosen.exact else 15.0)
    result.check(close, f"{agreement:.1f} dB from the plain rasteriser")
    covered = float(result.value.alpha.mean())
    result.check(covered > 0.2, f"mean alpha {covered:.2f}: hardly anything was drawn")
