"""Pictures for the bank: shrinking, exposure, rounding, and that exact switches change nothing."""

import math
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.clouds import cloud, cloud_poses
from rap import geometry
from rap.camera import Camera
from rap.config import ViewsConfig
from rap.splat.appearance import Appearance, identity_exposure
from rap.splat.gaussians import Gaussians
from rap.splat.memory import PAIRS, call_bytes
from rap.splat.render import gsplat_available, render
from rap.synthesis import drawing
from rap.synthesis.drawing import (
    Shots,
    draw_images,
    drawn_at,
    prepared,
    rounded,
    runnable_tuning,
    shrunk,
    tuning_of,
    views_at_once,
)

CAMERA = Camera(80.0, 80.0, 32.0, 24.0, 64, 48)
PLAIN = ViewsConfig(fused_colors=False, fused_blend=False, morton_order=False)


def some_gaussians(device: torch.device, num: int = 400) -> Gaussians:
    """A cloud with directional colours and an appearance for two images."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(num, 40, generator=generator)
    means = torch.rand(num, 3, generator=generator) * 4 - 2
    means[:, 2] += 4
    appearance = Appearance(
        torch.randn(2, 3, generator=generator), normal[:, 35:39],
        torch.randn(3, 6, generator=generator), 0.1 * torch.randn(6, 24, generator=generator),
        identity_exposure(2, means) * torch.tensor([0.8, 1.1]).view(2, 1, 1),
    )  # fmt: skip
    return Gaussians(
        means, normal[:, :4], 0.4 * normal[:, 4:7] - 2.2, 1.5 * normal[:, 7],
        0.3 * normal[:, 8:35].unflatten(1, (9, 3)), appearance=appearance,
    ).to(device)  # fmt: skip


def some_shots(gaussians: Gaussians, num: int = 9) -> Shots:
    """Each view in a light of its own."""
    generator = torch.Generator().manual_seed(1)
    device = gaussians.means.device
    poses = geometry.rigid(
        geometry.random_rotations_within(num, 10.0, generator),
        0.2 * torch.randn(num, 3, generator=generator),
    ).to(device)
    codes = torch.randn(num, 3, generator=generator).to(device)
    exposure = identity_exposure(num, codes)
    exposure += 0.1 * torch.randn(num, 3, 4, generator=generator).to(device)
    return Shots(poses, codes, exposure)


def test_a_whole_factor_is_the_mean_of_whole_pixels() -> None:
    """Twice the size shrinks to means over 2×2 pixels."""
    rgb = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    expected = rgb.view(2, 3, 4, 2, 6, 2).mean(dim=(3, 5))
    torch.testing.assert_close(shrunk(rgb, 4, 6), expected)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (8, 12)])
def test_shrinking_keeps_means_and_the_finest_stripes_away(size: tuple[int, int]) -> None:
    """Flat pictures stay; stripes of one pixel become grey instead of coarse stripes."""
    flat = torch.full((1, 3, 8, 12), 0.3)
    torch.testing.assert_close(shrunk(flat, *size), torch.full((1, 3, *size), 0.3))
    stripes = torch.zeros(1, 3, 8, 12)
    stripes[..., ::2] = 1.0
    spread = shrunk(stripes, *size).std(dim=3).max()
    assert spread < 0.3 or size == (8, 12)


def test_rounding_is_to_the_nearest_level() -> None:
    """Outside [0, 1] saturates."""
    values = torch.tensor([-0.2, 0.0, 0.4999 / 255, 0.5001 / 255, 0.5, 1.0, 3.0]).view(1, 1, 1, 7)
    assert rounded(values.expand(1, 3, 1, 7))[0, 0, 0].tolist() == [0, 0, 0, 1, 128, 255, 255]


@pytest.mark.parametrize("height", [None, 96, 70])
def test_pictures_are_the_shrunk_and_exposed_renderings(
    device: torch.device, height: int | None
) -> None:
    """Drawn larger, shrunk, exposed, rounded; coverage is the mean alpha of the rendering."""
    gaussians = some_gaussians(device)
    shots, config = some_shots(gaussians), replace(PLAIN, render_height=height)
    images, coverage = draw_images(gaussians, CAMERA, shots, config)
    large = CAMERA if height is None else CAMERA.with_height(height)
    assert drawn_at(CAMERA, config) == large
    drawn = render(
        gaussians, large, geometry.invert(shots.world_from_camera),
        codes=shots.codes, exposure=shots.exposure,
    )  # fmt: skip
    small = drawn.rgb
    if height is not None:
        small = F.interpolate(small, (48, 64), mode="bilinear", antialias=True)
    if height == 96:
        small = F.avg_pool2d(drawn.rgb, 2)
    levels = (small.clamp(0, 1) * 255).round()
    assert (images - levels).abs().max() <= 1
    torch.testing.assert_close(coverage, drawn.alpha.mean(dim=(1, 2)))


def test_shots_are_drawn_in_parts_as_together(device: torch.device) -> None:
    """A part of the shots keeps each view with its own light."""
    gaussians = some_gaussians(device)
    shots = some_shots(gaussians)
    whole, _ = draw_images(gaussians, CAMERA, shots, PLAIN)
    index = torch.tensor([7, 2], device=device)
    for part in (slice(2, 5), index):
        some, _ = draw_images(gaussians, CAMERA, shots.part(part), PLAIN)
        assert (some.int() - whole[part].int()).abs().max() <= 1


def test_baking_happens_where_it_is_asked_for(device: torch.device) -> None:
    """The prepared splat has degree 0 then, and keeps its own otherwise."""
    gaussians, eye = some_gaussians(device), torch.zeros(3, device=device)
    assert prepared(gaussians, eye, ViewsConfig()).sh_degree == 2
    assert prepared(gaussians, eye, ViewsConfig(colors="baked")).sh_degree == 0


def test_a_set_number_of_views_is_taken_as_it_is(device: torch.device) -> None:
    """`views.render_batch` wins over the memory model."""
    gaussians = some_gaussians(device)
    assert views_at_once(gaussians, CAMERA, ViewsConfig(render_batch=77)) == 77
    assert 1 <= views_at_once(gaussians, CAMERA, ViewsConfig()) <= 32


def test_a_set_number_of_views_does_not_overflow_the_rasteriser() -> None:
    """gsplat counts pairs in int32 and does not notice when they are more."""
    few = some_gaussians(torch.device("cpu"), num=1)
    many = Gaussians(
        *(part.expand(100_000_000, *part.shape[1:])
          for part in (few.means, few.quats, few.log_scales, few.opacity_logits, few.sh))
    )  # fmt: skip
    assert views_at_once(many, CAMERA, ViewsConfig(render_batch=77)) * many.num * PAIRS < 2**31


@pytest.mark.parametrize("problem", [None, "no triton installed"])
def test_memory_is_that_of_the_kernels_that_run(
    monkeypatch: pytest.MonkeyPatch, problem: str | None
) -> None:
    """Where our own do not, gsplat's take over, whose tiles have the size that is set."""
    monkeypatch.setattr(drawing, "gsplat_available", lambda: (True, ""))
    monkeypatch.setattr(drawing, "blend_problem", lambda _: problem)
    config = ViewsConfig(tile_size=8)
    assert runnable_tuning(config, torch.device("cuda")).fused_blend == (problem is None)
    assert runnable_tuning(config, torch.device("cpu")) == tuning_of(config)
    assert not runnable_tuning(replace(config, fused_blend=False), torch.device("cuda")).fused_blend


@pytest.mark.cuda
@pytest.mark.parametrize("num", [200_000, 1_000_000])
@pytest.mark.parametrize("tile_size", [8, 16])
@pytest.mark.parametrize("packed", [False, True])
def test_a_call_takes_no_more_memory_than_predicted(
    num: int, tile_size: Literal[8, 16], packed: bool
) -> None:
    """Drawn at 640×480 and stored at 320×240, each view in its own light."""
    if not gsplat_available()[0]:
        pytest.skip("needs an NVIDIA GPU with gsplat")
    device = torch.device("cuda")
    gaussians = cloud(num, 2, device)
    assert gaussians.appearance is not None
    codes = gaussians.appearance.codes[:8]
    exposure = gaussians.appearance.exposure[:8]
    shots = Shots(cloud_poses(8).to(device), codes, exposure)
    drawn = Camera(525.0, 525.0, 320.0, 240.0, 640, 480)
    stored = drawn.with_height(240)
    config = ViewsConfig(render_height=480, tile_size=tile_size, packed=packed)
    draw_images(gaussians, stored, shots, config)  # what libraries keep for good
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    draw_images(gaussians, stored, shots, config)
    taken = torch.cuda.max_memory_allocated() - before
    assert taken <= call_bytes(8, num, drawn, stored, tuning_of(config))


def psnr(a: Tensor, b: Tensor) -> float:
    error = float((a.float() - b.float()).square().mean())
    return 10 * math.log10(255**2 / max(error, 1e-9))


@pytest.mark.cuda
@pytest.mark.parametrize(
    "switch",
    [{"packed": True}, {"tile_size": 8}, {"fused_colors": True}, {"morton_order": True},
     {"fused_blend": True}, {"fused_blend": True, "fused_projection": False},
     {"packed": True, "tile_size": 8, "fused_colors": True, "morton_order": True}],
    ids=["packed", "tiles", "fused", "morton", "blend", "blend_only", "packed_and_more"],
)  # fmt: skip
def test_exact_switches_keep_the_picture(switch: dict[str, Any]) -> None:
    """At least 50 dB from each view drawn alone by the plain call."""
    usable, reason = gsplat_available()
    if not usable:
        pytest.skip(reason)
    gaussians = some_gaussians(torch.device("cuda"), 3000)
    shots, eye = some_shots(gaussians), torch.zeros(3, device="cuda")
    config = replace(PLAIN, **switch)
    images, _ = draw_images(prepared(gaussians, eye, config), CAMERA, shots, config)
    alone = [draw_images(gaussians, CAMERA, shots.part(slice(i, i + 1)), PLAIN)[0]
             for i in range(9)]  # fmt: skip
    assert psnr(images, torch.cat(alone)) >= 50
    assert images.float().std() > 10


@pytest.mark.cuda
def test_clipping_small_gaussians_drops_them() -> None:
    """A clip above every footprint leaves nothing; none leaves all."""
    usable, reason = gsplat_available()
    if not usable:
        pytest.skip(reason)
    gaussians = some_gaussians(torch.device("cuda"))
    shots = some_shots(gaussians)
    _, none = draw_images(gaussians, CAMERA, shots, replace(PLAIN, radius_clip_px=1e4))
    _, some = draw_images(gaussians, CAMERA, shots, replace(PLAIN, radius_clip_px=4.0))
    _, every = draw_images(gaussians, CAMERA, shots, PLAIN)
    assert none.max() == 0
    assert 0 < some.mean() < every.mean()
