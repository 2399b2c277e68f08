"""Pruning: scores are blending weights, the least needed go, and the picture stays."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rap import geometry
from rap.camera import Camera
from rap.config import FitConfig
from rap.data import room
from rap.scene import poses
from rap.splat import prune
from rap.splat.fit import fit
from rap.splat.gaussians import Gaussians
from rap.splat.prune import best, contributions, visible
from rap.splat.render import Rendering, render
from rap.splat.scores import evaluate_renders

CAMERA = Camera(30.0, 30.0, 16.0, 12.0, 32, 24)


def make_gaussians(num: int) -> Gaussians:
    """In front of a camera at the origin."""
    normal = torch.randn(num, 11, generator=torch.Generator().manual_seed(0))
    means = normal[:, :3] * torch.tensor([0.8, 0.6, 0.5]) + torch.tensor([0.0, 0.0, 3.0])
    sh = torch.zeros(num, 1, 3)
    return Gaussians(means, normal[:, 3:7], 0.3 * normal[:, 7:10] - 1.8, normal[:, 10], sh)


def make_views(num: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    rotation = geometry.random_rotations_within(num, 10.0, generator)
    return geometry.rigid(rotation, 0.1 * torch.randn(num, 3, generator=generator))


def test_contributions_add_up_to_the_picture(device: torch.device) -> None:
    """All weights together are the summed alpha, whatever the number of views in a call."""
    gaussians, views = make_gaussians(80).to(device), make_views(7).to(device)
    scores = contributions(gaussians, CAMERA, views)
    alpha = render(gaussians, CAMERA, views).alpha
    assert scores.sum().item() == pytest.approx(alpha.sum().item(), rel=1e-3)
    assert (scores >= 0).all()


def test_memory_for_one_view_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a long fit is no place to run out: fewer views are drawn at once."""
    gaussians, views = make_gaussians(80), make_views(7)
    expected = contributions(gaussians, CAMERA, views)

    def short(*args: Any, **options: Any) -> Rendering:  # noqa: ANN401 (passed on)
        if len(args[2]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return render(*args, **options)

    monkeypatch.setattr(prune, "render", short)
    torch.testing.assert_close(contributions(gaussians, CAMERA, views), expected)


def test_what_is_hidden_or_out_of_view_scores_nothing(device: torch.device) -> None:
    """An opaque wall in front takes all; behind it and behind the camera nothing is left."""
    gaussians = Gaussians(
        torch.tensor([[0.0, 0, 2.0], [0, 0, 2.1], [0, 0, 4.0], [0, 0, -2.0]]),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(4, 1),
        torch.tensor([[3.0], [3.0], [-2.0], [-2.0]]).repeat(1, 3) * torch.tensor([1.0, 1.0, 0.1]),
        torch.full((4,), 12.0),
        torch.zeros(4, 1, 3),
    ).to(device)
    scores = contributions(gaussians, CAMERA, torch.eye(4, device=device)[None])
    num_pixels = CAMERA.width * CAMERA.height
    assert scores[0] > 0.95 * num_pixels
    assert scores[2] < 1e-3 * num_pixels
    assert scores[3] == 0


@given(num=st.integers(1, 50), removed=st.floats(0, 0.99), seed=st.integers(0, 100))
def test_the_best_stay(num: int, removed: float, seed: int) -> None:
    """As many as asked for, none of them with a lower score than one that goes; at least one."""
    scores = torch.rand(num, generator=torch.Generator().manual_seed(seed))
    kept = best(scores, removed)
    assert len(kept) == max(num - int(removed * num), 1)
    assert (kept.diff() > 0).all()
    gone = torch.ones(num, dtype=torch.bool)
    gone[kept] = False
    assert not gone.any() or scores[gone].max() <= scores[kept].min()


def test_what_nobody_can_see_is_left_out(device: torch.device) -> None:
    """Gaussians fainter than 1/255 go, and the pictures are the same to the bit."""
    gaussians, views = make_gaussians(80).to(device), make_views(3).to(device)
    faint = gaussians.opacity_logits.clone()
    faint[::4] = -5.6
    gaussians = replace(gaussians, opacity_logits=faint)
    seen = visible(gaussians)
    assert seen.num == 60
    alone, together = (render(splat, CAMERA, views).rgb for splat in (seen, gaussians))
    assert torch.equal(alone, together)
    assert visible(replace(gaussians, opacity_logits=torch.full_like(faint, -9.0))).num == 80


def test_a_pruned_fit_is_smaller_and_nearly_as_good(device: torch.device) -> None:
    """A third fewer Gaussians cost less than half a decibel after the fine-tuning."""
    spec = room.RoomSpec(num_train=6, num_test=2, width=48, height=36, num_points=500)
    made = room.make(replace(spec, lamps_vary=False))
    pictures = [frame.image for frame in made.train if isinstance(frame.image, np.ndarray)]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    config = FitConfig(
        iterations=60, max_gaussians=500, sh_degree=0, refine_every=20, means_lr=2e-3,
        scales_lr=2e-2, sh_lr=1e-2, finetune_iterations=30,
    )  # fmt: skip
    assert made.points is not None
    fitted = [
        fit(images, poses(made.train), made.camera, made.points, variant, device)
        for variant in (config, replace(config, prune=0.33))
    ]
    assert fitted[0].num == 500
    assert fitted[1].num == 335
    psnr = [
        evaluate_renders(splat, images, poses(made.train), made.camera).psnr.mean()
        for splat in fitted
    ]
    assert psnr[1] > psnr[0] - 0.5
