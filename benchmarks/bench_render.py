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
from rap.splat.blend import blend_problem
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
    "gsplat_blend": Switch(RenderTuning(fused_blend=False)),
    "gsplat_projection": Switch(RenderTuning(fused_projection=False)),
    "tiles_of_8": Switch(RenderTuning(tile_size=8, fused_projection=False)),
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
    """Our kernels or gsplat's on a GPU, the plain rasteriser elsewhere; that in float64 agrees.

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
    calls = counted(monkeypatch, shown.gaussians.means.device)
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
        taken = {path for path, made in calls.items() if made.num}
        wanted = {path_of(chosen.tuning, device)}
        result.check(taken == wanted, f"was drawn by {taken}, not {wanted}")
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


def path_of(tuning: RenderTuning, device: torch.device) -> str:
    """Which of our and gsplat's functions has to draw."""
    if device.type == "cpu":
        return "plain"
    if tuning.packed or not tuning.fused_blend:
        return "gsplat"
    return "own kernels" if tuning.fused_projection else "own blending"


def counted(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> dict[str, paths.Calls]:
    """The calls of everything that can draw, by path; `device` as tensors name it, `cuda:0`."""
    calls = {"plain": paths.count_calls(monkeypatch, reference, "rasterize")}
    if device.type == "cuda":
        blend_problem(device)  # its trial runs the kernels, once in a process
        gsplat = importlib.import_module("gsplat.rendering")
        kernel = importlib.import_module("rap.splat.blend_kernel")
        calls["gsplat"] = paths.count_calls(monkeypatch, gsplat, "rasterization")
        calls["own blending"] = paths.count_calls(monkeypatch, kernel, "blend")
        calls["own kernels"] = paths.count_calls(monkeypatch, kernel, "blend_records")
    return calls
