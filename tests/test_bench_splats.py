"""What the benchmarks of rendering draw, and that what they check can fail."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import clouds
from benchmarks.bench_fit_step import moved_bytes
from benchmarks.bench_views import counted, kept_shots, largest_difference, pruned
from benchmarks.workloads import CPU_SCALE, SEED
from rap.camera import Camera
from rap.config import FitConfig, ViewsConfig
from rap.data import load
from rap.data.images import ImageBank
from rap.data.room import RoomSpec, write
from rap.geometry import invert
from rap.scene import Points, poses
from rap.splat.fit import begin
from rap.splat.gaussians import Gaussians, save_ply
from rap.splat.objective import Targets
from rap.splat.render import render
from rap.synthesis.views import Anchors, RefreshStats, anchors_of, refresh_views

CPU = torch.device("cpu")
CAMERA = Camera(26.0, 26.0, 16.0, 12.0, 32, 24)


def test_a_fitted_splat_without_codes_is_shown_in_random_light(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the default settings fit it: it knows exposures alone."""
    fitted = clouds.cloud(50, 1, CPU)
    assert fitted.appearance is not None
    alone = replace(
        fitted.appearance, codes=torch.zeros(3, 0), hidden=torch.zeros(0, 32),
        exposure=fitted.appearance.exposure[:3],
    )  # fmt: skip
    save_ply(tmp_path / "fitted.ply", replace(fitted, appearance=alone))
    monkeypatch.setenv(clouds.FITTED, str(tmp_path / "fitted.ply"))
    light = clouds.shown("fitted", CPU_SCALE, CPU).gaussians.appearance
    assert light is not None
    assert light.num_codes == 8
    assert len(light.exposure) == len(light.codes)


def test_a_fitted_splat_is_seen_by_the_cameras_of_its_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of `--scene`, evenly spread, in its own pinhole; without it, from the middle."""
    write(RoomSpec(num_train=4, num_test=1, width=40, height=30), tmp_path / "scene")
    save_ply(tmp_path / "fitted.ply", clouds.cloud(50, 1, CPU))
    monkeypatch.setenv(clouds.FITTED, str(tmp_path / "fitted.ply"))
    scene = load(tmp_path / "scene")
    shown = clouds.shown("fitted", CPU_SCALE, CPU, str(tmp_path / "scene"))
    assert torch.equal(shown.poses(2), poses(scene.train).float()[::2])
    assert len(shown.poses(9)) == 9
    assert shown.camera == scene.camera.with_height(CPU_SCALE.render_height)
    assert clouds.shown("fitted", CPU_SCALE, CPU).photographed is None


def test_only_a_strict_filter_has_to_reject() -> None:
    """Yet no filter may draw fewer views than there are, and none at all draws no more."""
    off, on = ViewsConfig(min_coverage=0.0), ViewsConfig(min_coverage=0.5)

    def right(num_renders: int, config: ViewsConfig, strict: bool) -> bool:
        return all(ok for ok, _ in counted(RefreshStats(9, num_renders, 0, 2), 9, config, strict))

    assert right(9, on, strict=False)
    assert right(12, on, strict=False)
    assert not right(8, on, strict=False)
    assert right(12, on, strict=True)
    assert not right(9, on, strict=True)
    for strict in (False, True):
        assert right(9, off, strict)
        assert not right(12, off, strict)


def some_views(config: ViewsConfig) -> tuple[Gaussians, Anchors, ImageBank, RefreshStats]:
    """A bank with views of a small cloud, in light of their own."""
    gaussians = clouds.cloud(300, 0, CPU)
    anchors = anchors_of(clouds.cloud_poses(12), 0.2)
    empty = torch.zeros(12, 3, CAMERA.height, CAMERA.width, dtype=torch.uint8)
    bank = ImageBank(empty, torch.zeros(12, 4, 4), CPU, 2**30, pin_memory=False)
    generator = torch.Generator().manual_seed(SEED)
    return gaussians, anchors, bank, refresh_views(
        bank, gaussians, CAMERA, anchors, config, generator
    )  # fmt: skip


def test_views_in_their_own_light_are_drawn_again_as_the_bank_holds_them() -> None:
    """Those of every attempt; a bank whose light went to other views is noticed."""
    config = ViewsConfig(min_coverage=0.968, max_attempts=3)
    gaussians, anchors, bank, stats = some_views(config)
    assert 12 < stats.num_renders < 36
    generator = torch.Generator()
    shots = kept_shots(gaussians, bank, anchors, config, generator, stats.num_attempts)
    assert torch.equal(shots.world_from_camera, bank.poses)
    assert largest_difference(gaussians, CAMERA, shots, config, bank) <= 1
    assert shots.codes is not None
    other = replace(shots, codes=shots.codes.roll(1, dims=0))
    assert largest_difference(gaussians, CAMERA, other, config, bank) > 1


def test_pruning_leaves_what_the_anchors_see() -> None:
    """Half of the Gaussians, and those that weigh most: the views keep their picture."""
    gaussians, anchors, _, _ = some_views(ViewsConfig(min_coverage=0.0))
    half = pruned(gaussians, CAMERA, anchors)
    camera_from_world = invert(anchors.world_from_camera)
    whole = render(gaussians, CAMERA, camera_from_world).alpha.sum()
    assert half.num == gaussians.num // 2
    assert render(half, CAMERA, camera_from_world).alpha.sum() > 0.8 * whole


@pytest.mark.parametrize("images_per_step", [1, 3])
def test_a_step_of_a_fit_moves_what_it_learns_and_shows(images_per_step: int) -> None:
    """Parameters, gradients and moments of every Gaussian, and as many photographs as it renders.

    Of 40 Gaussians with 14 parameters, 8 transfers of 4 bytes each.
    """
    images = torch.zeros(3, 3, CAMERA.height, CAMERA.width, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(SEED)
    xyz = torch.rand(40, 3, generator=generator)
    points = Points(xyz, torch.zeros(40, 3, dtype=torch.uint8))
    config = FitConfig(images_per_step=images_per_step, iterations=5, sh_degree=0)
    course, state = begin(Targets(images), clouds.cloud_poses(3), CAMERA, points, config, CPU)
    pixels = images_per_step * CAMERA.height * CAMERA.width
    assert moved_bytes(state, course) == 40 * 14 * 8 * 4 + pixels * (3 + 16)
