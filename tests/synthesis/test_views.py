"""Refreshing the bank: what views show, what the filter keeps, who draws which, out of memory."""

import warnings
from dataclasses import replace

import pytest
import torch

from rap.camera import Camera
from rap.config import ViewsConfig
from rap.data.images import ImageBank
from rap.geometry import invert
from rap.splat.appearance import Appearance, identity_exposure
from rap.splat.gaussians import Gaussians
from rap.splat.render import render
from rap.synthesis import views
from rap.synthesis.drawing import Shots
from rap.synthesis.views import RefreshStats, anchors_of, refresh_views, share
from tests.synthesis.test_brisque import synthetic_model

CAMERA = Camera(40.0, 40.0, 16.0, 12.0, 32, 24)
NUM = 12
HALF = ViewsConfig(min_coverage=0.0, translation_m=0.3)


def some_gaussians(device: torch.device, size: float = -3.5) -> Gaussians:
    """A cloud three metres in front of the origin."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(60, 3, generator=generator) * 2 - 1
    means[:, 2] += 3
    return Gaussians(
        means,
        torch.tensor([1.0, 0, 0, 0]).repeat(60, 1),
        torch.full((60, 3), size),
        torch.full((60,), 3.0),
        torch.rand(60, 1, 3, generator=generator),
    ).to(device)


def empty_bank(device: torch.device, num: int = NUM) -> ImageBank:
    """Black pictures at no pose."""
    empty = torch.zeros(num, 3, CAMERA.height, CAMERA.width, dtype=torch.uint8)
    return ImageBank(empty, torch.zeros(num, 4, 4), device, 1 << 30, pin_memory=False)


def lit(gaussians: Gaussians) -> Gaussians:
    """The cloud in the light of four photographs, some of it red, some of it dim."""
    generator = torch.Generator().manual_seed(5)
    appearance = Appearance(
        torch.randn(4, 3, generator=generator),
        torch.randn(gaussians.num, 2, generator=generator),
        torch.randn(3, 5, generator=generator),
        0.3 * torch.randn(5, 2 * 6, generator=generator),
        identity_exposure(4, torch.zeros(1)) * torch.tensor([0.7, 0.9, 1.1, 1.3]).view(4, 1, 1),
    )
    return replace(gaussians, appearance=appearance.to(gaussians.means.device))


def refreshed(
    device: torch.device, config: ViewsConfig = HALF, seed: int = 1,
    rows: torch.Tensor | None = None, bank: ImageBank | None = None, dark: bool = False,
) -> tuple[ImageBank, RefreshStats]:  # fmt: skip
    """A bank with two views at each of six anchors, each view in its own light."""
    bank = bank or empty_bank(device)
    anchors = anchors_of(torch.eye(4, device=device).repeat(NUM // 2, 1, 1), margin_m=0.2)
    generator = torch.Generator(device).manual_seed(seed)
    gaussians = some_gaussians(device) if dark else lit(some_gaussians(device))
    stats = refresh_views(bank, gaussians, CAMERA, anchors, config, generator, rows=rows)
    return bank, stats


@pytest.mark.parametrize("antialiased", [True, False])
def test_views_are_drawn_as_the_splat_was_fitted(antialiased: bool) -> None:
    """A splat that was fitted classically is not drawn thinner in training."""
    cpu = torch.device("cpu")
    gaussians = replace(some_gaussians(cpu, size=-4.5), antialiased=antialiased)
    bank = empty_bank(cpu, 2)
    anchors = anchors_of(torch.eye(4).repeat(2, 1, 1), margin_m=0.2)
    refresh_views(bank, gaussians, CAMERA, anchors, HALF, torch.Generator().manual_seed(1))

    def drawn(antialiased: bool) -> torch.Tensor:
        rendering = render(gaussians, CAMERA, invert(bank.poses), antialiased=antialiased)
        return (rendering.rgb.clamp(0, 1) * 255 + 0.5).to(torch.uint8)

    assert torch.equal(bank.images, drawn(antialiased))
    assert not torch.equal(bank.images, drawn(not antialiased))


@pytest.mark.parametrize("size", [1, 5, None])
def test_the_size_of_a_call_changes_nothing(device: torch.device, size: int | None) -> None:
    """Poses are those of the seed however many views a call holds, and so are the pictures."""
    config = replace(HALF, min_coverage=0.06, max_attempts=3)
    all_at_once, stats = refreshed(device, replace(config, render_batch=NUM))
    bank, same = refreshed(device, replace(config, render_batch=size))
    assert stats == same
    assert NUM < stats.num_renders < 3 * NUM
    torch.testing.assert_close(bank.poses, all_at_once.poses, rtol=0, atol=0)
    assert (bank.images.int() - all_at_once.images.int()).abs().max() <= 1


def test_the_shares_of_several_processes_are_the_whole(device: torch.device) -> None:
    """Three ranks that draw their rows fill the bank as one process does, rejects included."""
    config = replace(HALF, min_coverage=0.06, max_attempts=3)
    whole, stats = refreshed(device, config)
    shared = empty_bank(device)
    parts = []
    for rank in range(3):
        rows = share(NUM, rank, 3, device)
        before = shared.images.clone()
        parts.append(refreshed(device, config, rows=rows, bank=shared)[1])
        others = torch.ones(NUM, dtype=torch.bool, device=device)
        others[rows] = False
        assert torch.equal(shared.images[others], before[others])
    assert torch.equal(shared.poses, whole.poses)
    assert (shared.images.int() - whole.images.int()).abs().max() <= 1
    assert sum(part.num_renders for part in parts) == stats.num_renders
    assert sum(part.num_below_filter for part in parts) == stats.num_below_filter


def test_each_row_falls_to_one_process() -> None:
    """Shares are disjoint, complete and differ by at most one row."""
    cpu = torch.device("cpu")
    shares = [share(11, rank, 4, cpu) for rank in range(4)]
    assert sorted(torch.cat(shares).tolist()) == list(range(11))
    assert {len(rows) for rows in shares} == {2, 3}
    with pytest.raises(ValueError, match="rank 4"):
        share(11, 4, 4, cpu)


def test_rejected_views_are_drawn_again_and_the_best_stays(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an impossible filter every attempt is made, and each row holds its best coverage."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = views.draw_images

    def recorded(
        gaussians: Gaussians, camera: Camera, shots: Shots, config: ViewsConfig
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images, coverage = real(gaussians, camera, shots, config)
        seen.append((shots.world_from_camera, coverage))
        return images, coverage

    monkeypatch.setattr(views, "draw_images", recorded)
    bank, stats = refreshed(device, replace(HALF, min_coverage=0.9999, max_attempts=3))
    assert stats == RefreshStats(NUM, 3 * NUM, NUM, 3, num_low_coverage=3 * NUM)
    assert stats.acceptance == 0
    attempts = 3
    poses = torch.cat([pose for pose, _ in seen]).view(attempts, NUM, 4, 4)
    best = torch.cat([cover for _, cover in seen]).view(attempts, NUM).argmax(0)
    expected = poses[best, torch.arange(NUM, device=device)]
    assert torch.equal(bank.poses, expected)
    assert len(best.unique()) > 1


def test_what_is_rejected_is_counted_by_the_limit_that_it_misses(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every render once, in whatever calls it was drawn; one that misses both counts for both."""
    drawn = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0] * 2, device=device)
    scores = torch.tensor([90.0] * 6 + [10.0] * 6, device=device)

    def fake(
        _: Gaussians, camera: Camera, shots: Shots, _config: ViewsConfig
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.arange(NUM, device=device)[: len(shots.world_from_camera)]
        images = rows[:, None, None, None].expand(-1, 3, camera.height, camera.width)
        return images.to(torch.uint8), drawn[rows]

    monkeypatch.setattr(views, "draw_images", fake)
    config = replace(HALF, min_coverage=0.5, max_attempts=1, render_batch=NUM)
    _, stats = refreshed(device, config)
    assert (stats.num_low_coverage, stats.num_high_brisque) == (6, 0)
    monkeypatch.setattr(views, "_brisque_model", lambda device: synthetic_model().to(device))
    monkeypatch.setattr(views, "brisque", lambda images, _: scores[: len(images)])
    _, stats = refreshed(device, replace(config, max_brisque=50.0))
    assert (stats.num_low_coverage, stats.num_high_brisque) == (6, 6)
    assert stats.num_below_filter == 9
    assert stats.beside(stats) == RefreshStats(2 * NUM, 2 * NUM, 18, 1, 12, 12)


def test_each_view_has_a_light_of_its_own(device: torch.device) -> None:
    """At poses that do not move, views of one anchor differ by their light alone, and by much."""
    still = replace(HALF, translation_m=0.0, rotation_deg=0.0)
    images = refreshed(device, still)[0].images.float()
    dark = refreshed(device, still, dark=True)[0].images.float()
    assert (dark - dark[0]).abs().max() <= 1
    apart = (images[:, None] - images[None]).abs().amax(dim=(2, 3, 4))
    assert apart.triu(1)[apart.triu(1) > 0].min() > 5
    assert (apart > 5).sum() == NUM * (NUM - 1)


def test_light_of_strength_zero_is_the_mean_light(device: torch.device) -> None:
    """The off position: the pictures of the .ply's own colours."""
    off = replace(HALF, appearance_scale=0.0, translation_m=0.0, rotation_deg=0.0)
    images = refreshed(device, off)[0].images.int()
    plain = refreshed(device, off, dark=True)[0].images.int()
    assert (images - plain).abs().max() <= 1


@pytest.mark.parametrize(("scale", "same"), [(0.0, False), (0.5, True), (2.0, True)])
def test_exposures_alone_are_those_of_the_anchors_or_none(scale: float, same: bool) -> None:
    """Where the splat has no codes: any scale but zero leaves them as the photographs had them."""
    gaussians = lit(some_gaussians(torch.device("cpu")))
    assert gaussians.appearance is not None
    alone = replace(
        gaussians.appearance, codes=torch.zeros(4, 0), hidden=torch.zeros(0, 5)
    )  # fmt: skip
    near = torch.eye(4).repeat(8, 1, 1)
    anchors = anchors_of(near[:4], 0.2, alone.exposure)
    shots = views.draw_shots(
        replace(gaussians, appearance=alone), near, anchors,
        replace(HALF, appearance_scale=scale), torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert shots.codes is None
    expected = alone.exposure.repeat_interleave(2, dim=0)
    assert (shots.exposure is not None and torch.equal(shots.exposure, expected)) == same


def test_views_that_pass_are_drawn_once(device: torch.device) -> None:
    """Without a filter there is one attempt, and every render is accepted."""
    _, stats = refreshed(device)
    assert stats == RefreshStats(NUM, NUM, 0, 1)
    assert stats.acceptance == 1


def test_the_generator_alone_decides(device: torch.device) -> None:
    """Same seed, same views; another seed, others."""
    first, again = refreshed(device)[0], refreshed(device)[0]
    assert torch.equal(first.poses, again.poses)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.poses, refreshed(device, seed=2)[0].poses)


def test_running_out_of_memory_makes_calls_smaller(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The views are the same, drawn in calls that fit."""
    expected = refreshed(device)[0]
    sizes = []
    real = views.draw_images

    def small(
        gaussians: Gaussians, camera: Camera, shots: Shots, config: ViewsConfig
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(shots.world_from_camera))
        if sizes[-1] > 4:
            raise torch.OutOfMemoryError("fake")
        return real(gaussians, camera, shots, config)

    monkeypatch.setattr(views, "draw_images", small)
    bank, stats = refreshed(device, replace(HALF, render_batch=NUM))
    assert sizes == [12, 6, 3, 3, 3, 3]
    assert stats.num_renders == NUM
    assert (bank.images.int() - expected.images.int()).abs().max() <= 1


@pytest.mark.cuda
def test_the_host_waits_once_per_attempt_and_once_for_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides what gsplat itself waits for, which a stand-in for it does not."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device("cuda")

    def fake(
        _: Gaussians, camera: Camera, shots: Shots, _config: ViewsConfig
    ) -> tuple[torch.Tensor, torch.Tensor]:
        num = len(shots.world_from_camera)
        blank = torch.zeros(num, 3, camera.height, camera.width, dtype=torch.uint8, device=device)
        return blank, torch.rand(num, device=device) * 0.5

    monkeypatch.setattr(views, "draw_images", fake)
    config = replace(HALF, min_coverage=0.9, max_attempts=4, render_batch=5)
    refreshed(device, config)
    anchors = anchors_of(torch.eye(4, device=device).repeat(NUM, 1, 1), margin_m=0.2)
    bank, gaussians = empty_bank(device), some_gaussians(device)
    generator = torch.Generator(device).manual_seed(0)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            stats = refresh_views(bank, gaussians, CAMERA, anchors, config, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert stats.num_attempts == 4
    # choosing the rejected rows is one wait, which the debugger counts twice; in the end, why
    assert len(waits) <= 2 * (stats.num_attempts + 1)
