"""Colours of all Gaussians in many appearances: baked once, then drawn in any number of views."""

import pytest
import torch

from benchmarks import clouds, paths
from benchmarks.harness import Measure, axis
from benchmarks.workloads import SEED, Scale
from rap.config import ViewsConfig
from rap.splat import colors
from rap.splat.appearance import Appearance
from rap.splat.gaussians import Gaussians
from rap.splat.harmonics import BASE
from rap.synthesis.appearances import draw_appearances

TOLERANCE = 1e-4
"""Of a colour; TF32 would miss it."""
NUM_CHECKED = 2_000
"""Gaussians whose colours the plain twin computes, evenly spread."""


@pytest.mark.parametrize("splat", axis(["small"], cuda=["large"]))
@pytest.mark.parametrize("num_appearances", axis([32], full=[1, 8]))
@pytest.mark.parametrize("by", axis(["product"], cuda=["kernel"]))
def bench_appearance(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, device: torch.device, scale: Scale,
    splat: str, num_appearances: int, by: str,
) -> None:  # fmt: skip
    """One matrix product and one pass, or one kernel; a loop in float64 finds the same colours."""
    gaussians = clouds.cloud(scale.num_gaussians[splat], 0, device)
    light = gaussians.appearance
    assert light is not None
    generator = torch.Generator(device).manual_seed(SEED)
    codes = draw_appearances(light, num_appearances, ViewsConfig(), generator).codes
    somewhere = torch.eye(4, device=device).expand(num_appearances, 4, 4)
    products = paths.count_calls(monkeypatch, colors, "color_affine")
    read = gaussians.sh.nbytes + light.features.nbytes
    with torch.no_grad():
        result = measure(
            lambda: colors.view_colors(gaussians, somewhere, codes, fused=by == "kernel"),
            items=num_appearances, unit="appearances", clock="gpu",
            moves_bytes=read + num_appearances * gaussians.sh.nbytes,
        )  # fmt: skip

    called = "the product" if products.num else "the kernel"
    result.check((products.num > 0) == (by == "product"), f"{by} was asked for, {called} came")
    index = torch.linspace(0, gaussians.num - 1, NUM_CHECKED, device=device).long()
    exact = plain_twin(gaussians, light, codes, index)
    off = float((result.value[:, index].cpu() - exact).abs().max())
    result.check(off < TOLERANCE, f"a colour differs from float64 by {off:.1e}")
    with torch.no_grad():
        mean = colors.view_colors(gaussians, somewhere, torch.zeros_like(codes))
        own = colors.view_colors(gaussians, somewhere[:1])
    result.check(float((mean - own).abs().max()) < 1e-6, "code zero changes the colours")
    moved = float((result.value - own).abs().mean())
    result.check(moved > 100 * TOLERANCE, f"colours move by {moved:.1e}: any mistake would pass")


def plain_twin(
    gaussians: Gaussians, light: Appearance, codes: torch.Tensor, index: torch.Tensor
) -> torch.Tensor:
    """The colours of some Gaussians, code after code, in float64 on the CPU."""
    own = 0.5 + BASE * gaussians.sh[index, 0].cpu().double()
    features = light.features[index].cpu().double()
    hidden, output = light.hidden.cpu().double(), light.output.cpu().double()
    rows = []
    for code in codes.cpu().double():
        matrix = ((code @ hidden).tanh() @ output).view(features.shape[1], 6)
        gain, offset = (features @ matrix).split(3, dim=1)
        rows.append((own * (1 + gain) + offset).clamp(min=0))
    return torch.stack(rows)
