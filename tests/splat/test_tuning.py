"""The tuning of a call: exact switches keep the picture, a clip drops what is small."""

import math

import pytest
import torch
from torch import Tensor

from rap.camera import Camera
from rap.splat.gaussians import Gaussians
from rap.splat.render import Backend, gsplat_available, render
from rap.splat.tuning import RenderTuning

CAMERA = Camera(100.0, 100.0, 48.0, 36.0, 96, 72)


def blobs(device: torch.device) -> Gaussians:
    """Solid balls whose footprints reach about 2, 4, 7 and 14 pixels, side by side."""
    num = 4
    return Gaussians(
        torch.tensor([[-0.9, 0.0, 3.0], [-0.3, 0.0, 3.0], [0.3, 0.0, 3.0], [0.9, 0.0, 3.0]]),
        torch.tensor([1.0, 0, 0, 0]).repeat(num, 1),
        torch.tensor([0.001, 0.03, 0.06, 0.115]).log()[:, None].repeat(1, 3),
        torch.full((num,), 6.0),
        torch.full((num, 1, 3), 1.5),
        antialiased=False,
    ).to(device)


def backends() -> list[Backend]:
    usable, _ = gsplat_available()
    return ["reference", "gsplat"] if usable else ["reference"]


def columns(alpha: Tensor) -> list[bool]:
    """Which of the four blobs are there."""
    return [bool(alpha[0, 36, x] > 0.3) for x in (18, 38, 58, 78)]


@pytest.mark.parametrize(("clip", "kept"), [(0.0, 4), (2.0, 3), (4.0, 2), (7.0, 1), (14.0, 0)])
def test_a_clip_drops_what_reaches_no_farther(device: torch.device, clip: float, kept: int) -> None:
    """In x and in y, in whole pixels, on both backends alike."""
    pose = torch.eye(4, device=device)[None]
    for backend in backends() if device.type == "cuda" else ["reference"]:
        drawn = render(
            blobs(device), CAMERA, pose, backend=backend, tuning=RenderTuning(radius_clip_px=clip)
        )
        assert columns(drawn.alpha) == [False] * (4 - kept) + [True] * kept


def cloud(device: torch.device, num: int = 3000) -> Gaussians:
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(num, 38, generator=generator)
    means = torch.rand(num, 3, generator=generator) * 4 - 2
    means[:, 2] += 4
    return Gaussians(
        means, normal[:, :4], 0.4 * normal[:, 4:7] - 3, 1.5 * normal[:, 7],
        0.3 * normal[:, 8:35].unflatten(1, (9, 3)),
    ).to(device)  # fmt: skip


@pytest.mark.cuda
@pytest.mark.parametrize("with_depth", [True, False])
@pytest.mark.parametrize(
    "tuning",
    [RenderTuning(packed=True), RenderTuning(tile_size=8, fused_blend=False),
     RenderTuning(packed=True, tile_size=8), RenderTuning(fused_colors=False),
     RenderTuning(fused_blend=False), RenderTuning(fused_projection=False)],
    ids=["packed", "tiles", "both", "torch_colors", "gsplat_blend", "gsplat_projection"],
)  # fmt: skip
def test_exact_tunings_keep_picture_alpha_and_depth(tuning: RenderTuning, with_depth: bool) -> None:
    """At least 50 dB from the plain call, over a background."""
    usable, reason = gsplat_available()
    if not usable:
        pytest.skip(reason)
    device = torch.device("cuda")
    gaussians, ground = cloud(device), torch.tensor([0.2, 0.5, 0.8])
    poses = torch.eye(4, device=device).repeat(5, 1, 1)
    poses[:, 0, 3] = torch.linspace(-0.5, 0.5, 5)
    plain, tuned = (
        render(gaussians, CAMERA, poses, background=ground, with_depth=with_depth, tuning=choice)
        for choice in (None, tuning)
    )
    assert plain.alpha.mean() > 0.3
    assert psnr(tuned.rgb, plain.rgb) >= 50
    assert psnr(tuned.alpha, plain.alpha) >= 50
    assert (tuned.depth is None) == (plain.depth is None)
    if tuned.depth is not None and plain.depth is not None:
        torch.testing.assert_close(tuned.depth, plain.depth, atol=1e-3, rtol=1e-3)


def psnr(a: Tensor, b: Tensor) -> float:
    return 10 * math.log10(1 / max(float((a - b).square().mean()), 1e-20))
