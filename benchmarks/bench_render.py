"""Pictures of Gaussians, several views in one call."""

import importlib

import pytest
import torch

from benchmarks import paths, workloads
from benchmarks.harness import Measure, axis
from benchmarks.workloads import Scale
from rap.geometry import invert
from rap.scene import Scene, poses
from rap.splat import reference
from rap.splat.gaussians import Gaussians
from rap.splat.quality import psnr
from rap.splat.render import render

MIN_PSNR_DB = 50.0


@pytest.mark.parametrize("splat", axis(["small"], full=["large"]))
@pytest.mark.parametrize("num_views", axis([8], full=[1, 32]))
def bench_render(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, device: torch.device, scale: Scale,
    scene: Scene, splat: str, num_views: int,
) -> None:  # fmt: skip
    """gsplat on a GPU, the plain rasteriser elsewhere; the plain one in float64 agrees."""
    camera = scene.camera.with_height(scale.render_height)
    gaussians = workloads.splat(scene, scale.num_gaussians[splat], scale.sh_degree, device)
    anchors = poses(workloads.thinned(scene.train, num_views)).float()
    camera_from_world = invert(anchors.repeat(-(-num_views // len(anchors)), 1, 1)[:num_views])
    camera_from_world = camera_from_world.to(device)
    plain = paths.count_calls(monkeypatch, reference, "rasterize")
    on_gpu = device.type == "cuda"
    drawn_by = plain
    if on_gpu:
        gsplat = importlib.import_module("gsplat.rendering")
        drawn_by = paths.count_calls(monkeypatch, gsplat, "rasterization")
    with torch.no_grad():
        result = measure(
            lambda: render(gaussians, camera, camera_from_world),
            items=num_views, unit="views", clock="gpu",
        )  # fmt: skip
        result.check(drawn_by.num > 0, "was not drawn by the rasteriser of this device")
        result.check(not on_gpu or plain.num == 0, "was drawn by the plain rasteriser")
        last = camera_from_world[-1:].double()
        exact = render(in_float64(gaussians), camera, last, backend="reference").rgb.float()
    agreement = float(psnr(result.value.rgb[-1:], exact))
    result.check(agreement >= MIN_PSNR_DB, f"{agreement:.1f} dB from the plain rasteriser")
    covered = float(result.value.alpha.mean())
    result.check(covered > 0.01, f"mean alpha {covered:.2f}: hardly anything was drawn")


def in_float64(gaussians: Gaussians) -> Gaussians:
    """The same Gaussians for the exact picture."""
    return Gaussians(
        gaussians.means.double(), gaussians.quats.double(), gaussians.log_scales.double(),
        gaussians.opacity_logits.double(), gaussians.sh.double(),
    )  # fmt: skip
