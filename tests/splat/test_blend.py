"""Our own blending kernel: gsplat's picture on a GPU, the plain rasteriser's in the interpreter."""

import importlib
import json
import math
import sys
from dataclasses import replace
from importlib import util
from types import ModuleType
from unittest import mock

import pytest
import torch
from torch import Tensor

from rap import geometry
from rap.camera import Camera
from rap.config import ViewsConfig
from rap.splat import blend, reference
from rap.splat.gaussians import Gaussians
from rap.splat.render import gsplat_available, render
from rap.splat.tuning import RenderTuning
from rap.synthesis.drawing import tuning_of
from tests.processes import run_interpreted

CAMERA = Camera(180.0, 185.0, 98.0, 77.0, 203, 149)
SMALL = Camera(30.0, 31.0, 17.0, 11.0, 35, 21)
SCENES: dict[str, dict[str, float]] = {
    "mixed": {},
    "tiny": {"size": -6.0, "logit": 3.0},
    "huge": {"size": 0.5, "logit": -1.0},
    "needles": {"spread": 1.5, "size": -3.5, "logit": 2.0},
    "opaque": {"logit": 9.0, "size": -1.3},
    "transparent": {"logit": -4.0, "size": -1.5},
}


def scene(num: int, spread: float = 0.4, size: float = -2.5, logit: float = 0.0) -> Gaussians:
    """Between 1.5 and 6 m in front of the cameras of `poses`."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(num, 3, generator=generator) * 6 - 3
    means[:, 2] = means[:, 2].abs() * 1.5 + 1.5
    normal = torch.randn(num, 8, generator=generator)
    return Gaussians(
        means, normal[:, :4], spread * normal[:, 4:7] + size, logit + 1.5 * normal[:, 7],
        torch.rand(num, 1, 3, generator=generator) * 3 - 1.5,
    )  # fmt: skip


def poses(num: int) -> Tensor:
    """Cameras near the origin that look along z."""
    generator = torch.Generator().manual_seed(1)
    rotation = geometry.random_rotations_within(num, 15.0, generator)
    return geometry.rigid(rotation, 0.3 * torch.randn(num, 3, generator=generator))


def psnr(a: Tensor, b: Tensor) -> float:
    return 10 * math.log10(1 / max(float((a - b).square().mean()), 1e-20))


def same(
    rgb: Tensor, alpha: Tensor, true_rgb: Tensor, true_alpha: Tensor, atol: float = 2e-4
) -> None:
    """As a picture; what rounds to the other side of 1/255, or of the end of a pixel, is rare."""
    assert psnr(rgb, true_rgb) >= 60
    differences = (alpha - true_alpha).abs()
    assert float((differences > atol).float().mean()) <= 1e-4
    assert differences.max() < 0.11


@pytest.fixture
def gpu() -> torch.device:
    """Where gsplat draws and our kernel runs."""
    usable, reason = gsplat_available()
    if not usable:
        pytest.skip(reason)
    device = torch.device("cuda")
    assert blend.blend_problem(device) is None
    return device


@pytest.mark.cuda
@pytest.mark.parametrize("antialiased", [True, False], ids=["antialiased", "classic"])
@pytest.mark.parametrize("num_views", [1, 32])
@pytest.mark.parametrize("tile_size", [8, 16, 32])
@pytest.mark.parametrize("projected", [True, False], ids=["projected", "blended"])
@pytest.mark.parametrize("kind", SCENES)
def test_the_kernel_draws_the_picture_of_gsplat(
    gpu: torch.device, kind: str, projected: bool, tile_size: int, num_views: int, antialiased: bool
) -> None:
    """Colour to 60 dB, alpha to 2e-4, at a size that no tile divides."""
    gaussians, views = scene(3000, **SCENES[kind]).to(gpu), poses(num_views).to(gpu)
    colors = torch.rand(num_views, 3000, 3, device=gpu)
    ours, theirs = (
        render(gaussians, CAMERA, views, colors=colors, antialiased=antialiased,
               tuning=RenderTuning(tile_size=tile_size, fused_blend=fused,
                                   fused_projection=projected))
        for fused in (True, False)
    )  # fmt: skip
    assert theirs.alpha.max() > 0.02
    # the determinant of a needle cancels in gsplat's projection
    atol = 1e-3 if projected and kind == "needles" else 2e-4
    same(ours.rgb, ours.alpha, theirs.rgb, theirs.alpha, atol)
    assert ours.rgb.is_contiguous()


@pytest.mark.cuda
@pytest.mark.parametrize("strips", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 2)])
def test_every_block_draws_the_same(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch, strips: tuple[int, int]
) -> None:
    """However the tile is divided; one set of colours for all views is read as such."""
    gaussians, views = scene(3000).to(gpu), poses(3).to(gpu)
    theirs = render(gaussians, CAMERA, views, tuning=RenderTuning(fused_blend=False))
    monkeypatch.setattr(kernel(), "_STRIPS", strips)
    ours = render(gaussians, CAMERA, views)
    same(ours.rgb, ours.alpha, theirs.rgb, theirs.alpha)


@pytest.mark.cuda
def test_nothing_in_view_is_black(gpu: torch.device) -> None:
    """Cameras that look away have no pairs at all."""
    gaussians, views = scene(100).to(gpu), poses(2).to(gpu)
    views = torch.diag(torch.tensor([1.0, -1, -1, 1], device=gpu)) @ views
    drawn = render(gaussians, CAMERA, views)
    assert not drawn.rgb.any()
    assert not drawn.alpha.any()


@pytest.mark.cuda
def test_what_the_kernel_cannot_draw_is_left_to_gsplat(gpu: torch.device) -> None:
    """Gradients and depth come as before."""
    gaussians, views = scene(100).to(gpu), poses(2).to(gpu)
    assert render(gaussians, CAMERA, views, with_depth=True).depth is not None
    gaussians.means.requires_grad_()
    render(gaussians, CAMERA, views).rgb.sum().backward()
    assert gaussians.means.grad is not None
    assert gaussians.means.grad.abs().max() > 0


def test_only_cuda_is_drawn_by_the_kernel() -> None:
    """Elsewhere it is not even tried."""
    gaussians = scene(3)
    assert not blend.can_blend(gaussians, gaussians.sh[:, 0][None], poses(1))


def test_a_missing_triton_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """gsplat's own kernel takes over."""
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    blend.blend_problem.cache_clear()
    for _ in range(2):
        assert blend.blend_problem(torch.device("cpu")) == "no triton installed"
    blend.blend_problem.cache_clear()
    assert capsys.readouterr().err.count("gsplat's own kernel: no triton installed") == 1


def test_views_pass_the_switch_on() -> None:
    """On by default."""
    assert tuning_of(ViewsConfig()).fused_blend
    assert not tuning_of(ViewsConfig(fused_blend=False)).fused_blend


INTERPRETED = [
    ("mixed", None, (32, 16), True), ("needles", (1, 2), (8, 24), True),
    ("opaque", (2, 2), (32, 32), False), ("transparent", None, (8, 8), False),
    ("mixed", (2, 4), (32, 16), False),
]  # fmt: skip
"""Scene, strips of a block (none: as the module has them), tile; whether our kernel projects."""


@pytest.mark.parametrize("antialiased", [True, False], ids=["antialiased", "classic"])
@pytest.mark.slow
def test_interpreted_the_kernel_draws_the_plain_picture(antialiased: bool) -> None:
    """Where there is no GPU, Triton's interpreter runs it, in a process of its own."""
    found = run_interpreted(__file__, str(int(antialiased)))
    assert found["problem"] is None
    for result, case in zip(found["results"], INTERPRETED, strict=True):
        assert result["mean_alpha"] > 0.01, case
        assert result["psnr_db"] >= 60, case
        assert result["alpha"] <= 2e-4, case


def interpreted(
    kind: str,
    antialiased: bool,
    tile: tuple[int, int],
    projected: bool,
) -> dict[str, float]:
    """How far the kernels' picture is from the plain one; the process must interpret Triton."""
    num, views = 24, poses(2)
    gaussians = scene(num, **SCENES[kind])
    # one behind the other
    near = gaussians.means * torch.tensor([0.4, 0.3, 1.0])
    gaussians = replace(gaussians, means=near, log_scales=gaussians.log_scales + 0.7)
    colors = torch.rand(1 if projected else 2, num, 3)
    size = (SMALL.height, SMALL.width)
    if projected:
        project_kernel = importlib.import_module("rap.splat.project_kernel")
        records, middles, radii, depths = project_kernel.project(
            gaussians, colors, SMALL, views, antialiased, 0.0, tile
        )
        lists = tile_lists(middles, radii, depths, tile, (2, 2))
        drawn = kernel().blend_records(records, *lists, size, tile)
    else:
        splats = reference._project(gaussians, SMALL, views, antialiased)
        variances = torch.stack([splats.conic[:, 2] * splats.determinant, splats.variance_y], 1)
        mean, conic, opacity, radii, depth = (
            torch.zeros(2, num, *part.shape[1:]).index_put_((splats.view, splats.gaussian), part)
            for part in (splats.mean, splats.conic, splats.opacity,
                         (3.33 * variances.sqrt()).ceil(), splats.depth)
        )  # fmt: skip
        lists = tile_lists(mean, radii, depth, tile, tile)
        drawn = kernel().blend(mean, conic, opacity, colors, *lists, size, tile)
    true = reference.rasterize(gaussians, colors, SMALL, views, antialiased)
    return {
        "psnr_db": psnr(drawn[0], true[..., :3].permute(0, 3, 1, 2)),
        "alpha": float((drawn[1] - true[..., 4]).abs().max()),
        "mean_alpha": float(drawn[1].mean()),
    }


def kernel() -> ModuleType:
    return importlib.import_module("rap.splat.blend_kernel")


def tile_lists(
    middles: Tensor, radii: Tensor, depths: Tensor, tile: tuple[int, int], unit: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Starts of all tiles' lists, and the lists, as gsplat makes them of boxes in some unit."""
    num_views, num, _ = middles.shape
    columns, rows = -(-SMALL.width // tile[0]), -(-SMALL.height // tile[1])
    seen = ((radii > 0).all(-1)).flatten().nonzero()[:, 0]
    splats = seen[torch.argsort(depths.flatten()[seen], stable=True)]
    low = ((middles - radii).flatten(0, 1)[splats] / torch.tensor(unit)).floor()
    high = ((middles + radii).flatten(0, 1)[splats] / torch.tensor(unit)).ceil()
    numbers = torch.arange(columns * rows)
    x, y = numbers % columns, numbers // columns
    listed = (low[:, 0, None] <= x) & (x < high[:, 0, None])
    listed &= (low[:, 1, None] <= y) & (y < high[:, 1, None])
    which, tiles = listed.nonzero(as_tuple=True)
    keys, order = torch.sort(splats[which] // num * columns * rows + tiles, stable=True)
    starts = torch.searchsorted(keys, torch.arange(num_views * columns * rows)).int()
    return starts.view(num_views, rows, columns), splats[which][order].int()


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = []
    for kind, strips, tile, projected in INTERPRETED:
        with mock.patch.object(kernel(), "_STRIPS", strips or kernel()._STRIPS):
            results.append(interpreted(kind, bool(int(sys.argv[1])), tile, projected))
    problem = blend.blend_problem(torch.device("cpu"))
    sys.stdout.write(json.dumps({"problem": problem, "results": results}))
