"""Fitting: it approaches the photographs, obeys its caps and seeds, and refuses unusable input."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rap import geometry, scene
from rap.config import FitConfig
from rap.data import room
from rap.scene import Frame, Points, Scene
from rap.splat.fit import FitError, fit
from rap.splat.render import render
from rap.splat.scores import evaluate_renders
from rap.splat.sheet import contact_sheet

CONFIG = FitConfig(
    iterations=120, max_gaussians=660, sh_degree=1, refine_every=20,
    means_lr=2e-3, scales_lr=2e-2, sh_lr=1e-2, quats_lr=5e-3,
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small_room() -> Scene:
    spec = room.RoomSpec(
        num_train=8, num_test=2, width=64, height=48, num_points=600, lamps_vary=False
    )
    return room.make(spec)


def images_of(frames: tuple[Frame, ...]) -> Tensor:
    pictures = [frame.image for frame in frames if isinstance(frame.image, np.ndarray)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def points_of(room_scene: Scene) -> Points:
    assert room_scene.points is not None
    return room_scene.points


def test_fit_approaches_the_photographs(small_room: Scene, device: torch.device) -> None:
    """120 steps on eight small photographs gain several dB, at seen and at unseen poses."""
    images, poses = images_of(small_room.train), scene.poses(small_room.train)
    test_images, test_poses = images_of(small_room.test), scene.poses(small_room.test)
    points, camera = points_of(small_room), small_room.camera
    first = fit(images, poses, camera, points, replace(CONFIG, iterations=1), device)
    fitted = fit(images, poses, camera, points, CONFIG, device)
    assert fitted.means.device.type == device.type
    assert not fitted.means.requires_grad
    gain = [
        (
            evaluate_renders(fitted, *shots, camera).psnr
            - evaluate_renders(first, *shots, camera).psnr
        )
        for shots in ((images, poses), (test_images, test_poses))
    ]
    assert gain[0].mean() > 5
    assert gain[1].mean() > 2


def test_fit_grows_to_its_cap_with_several_images_a_step(small_room: Scene) -> None:
    """Growth stops at max_gaussians; images_per_step is honoured."""
    images, poses = images_of(small_room.train), scene.poses(small_room.train)
    config = replace(CONFIG, iterations=30, refine_every=5, images_per_step=3, max_gaussians=610)
    fitted = fit(images, poses, small_room.camera, points_of(small_room), config, CPU)
    assert fitted.num == 610
    assert fitted.sh_degree == 1


def test_scores_are_those_of_the_gaussians_own_way_of_drawing(small_room: Scene) -> None:
    """The fit says how it drew, and a colour map per picture is scored apart."""
    images, poses = images_of(small_room.train), scene.poses(small_room.train)
    scores = []
    for antialiased in (True, False):
        config = replace(CONFIG, iterations=1, antialiased=antialiased)
        fitted = fit(images, poses, small_room.camera, points_of(small_room), config, CPU)
        assert fitted.antialiased is antialiased
        scores.append(evaluate_renders(fitted, images, poses, small_room.camera))
    assert not torch.equal(scores[0].psnr, scores[1].psnr)
    assert (scores[0].psnr_affine > scores[0].psnr + 1).all()


def test_what_masks_leave_out_of_test_frames_does_not_score(small_room: Scene) -> None:
    """Noise painted there changes nothing; without the masks it costs decibels."""
    images, poses = images_of(small_room.test), scene.poses(small_room.test)
    camera, points = small_room.camera, points_of(small_room)
    seen = images_of(small_room.train), scene.poses(small_room.train)
    fitted = fit(*seen, camera, points, replace(CONFIG, iterations=1), CPU)
    masks = torch.ones(2, 48, 64, dtype=torch.bool)
    masks[:, :, 20:50] = False
    painted = torch.where(masks[:, None], images, 255 - images)
    scores = [evaluate_renders(fitted, shown, poses, camera, masks) for shown in (images, painted)]
    for one, other in zip(*scores, strict=True):
        assert torch.equal(one, other)
    assert (evaluate_renders(fitted, painted, poses, camera).psnr < scores[1].psnr - 1).all()
    assert (scores[0].ssim_affine > scores[0].ssim).all()


def test_surplus_points_are_dropped(small_room: Scene) -> None:
    """No more Gaussians than initial_points and max_gaussians allow."""
    images, poses = images_of(small_room.train), scene.poses(small_room.train)
    config = replace(CONFIG, iterations=1, initial_points=100)
    fitted = fit(images, poses, small_room.camera, points_of(small_room), config, CPU)
    assert fitted.num == 100


def test_same_seed_same_gaussians(small_room: Scene) -> None:
    """On the CPU two fits with one seed are equal, and another seed differs."""
    images, poses = images_of(small_room.train), scene.poses(small_room.train)
    config = replace(CONFIG, iterations=12, refine_every=3)
    a, b, c = (
        fit(images, poses, small_room.camera, points_of(small_room), variant, CPU)
        for variant in (config, config, replace(config, seed=8))
    )
    assert torch.equal(a.means, b.means)
    assert torch.equal(a.sh, b.sh)
    assert not torch.equal(a.sh, c.sh)


def unusable(small_room: Scene, case: str) -> tuple[Tensor, Tensor, Points]:
    images, poses = images_of(small_room.train), scene.poses(small_room.train)
    points = points_of(small_room)
    if case == "one photograph":
        images, poses = images[:1], poses[:1]
    elif case == "no points":
        points = Points(points.xyz[:0], points.rgb[:0])
    elif case == "pose not finite":
        poses = poses.clone()
        poses[3, 0, 3] = float("nan")
    elif case == "point not finite":
        points = Points(points.xyz.clone(), points.rgb)
        points.xyz[5, 1] = float("inf")
    else:
        images = images[:, :, :-1]
    return images, poses, points


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("one photograph", "1 photograph"),
        ("no points", "0 initial point"),
        ("pose not finite", "poses are not finite, the first is 3"),
        ("point not finite", "initial points are not finite, the first is 5"),
        ("other size", "64x47 pixels do not belong to a camera of 64x48"),
    ],
)
def test_unusable_input_is_refused(small_room: Scene, case: str, message: str) -> None:
    """Each gives one FitError that names what is wrong."""
    images, poses, points = unusable(small_room, case)
    with pytest.raises(FitError, match=message):
        fit(images, poses, small_room.camera, points, CONFIG, CPU)


def test_divergence_is_an_error(small_room: Scene) -> None:
    """A fit that ends in NaN says so and returns nothing."""
    images, poses = images_of(small_room.train), scene.poses(small_room.train)
    config = replace(CONFIG, iterations=3, sh_lr=1e38)
    with pytest.raises(FitError, match="diverged"):
        fit(images, poses, small_room.camera, points_of(small_room), config, CPU)


def test_contact_sheet_shows_pairs(tmp_path: Path) -> None:
    """Every photograph stands left of its rendering, three pairs to a row, none is cut off."""
    red = torch.zeros(4, 3, 10, 12, dtype=torch.uint8)
    red[:, 0] = 255
    path = tmp_path / "sheet.png"
    contact_sheet(path, red, red.roll(1, 1), ["a", "b", "c", "d"])
    sheet = np.asarray(Image.open(path))
    is_photo, is_render = (sheet == (255, 0, 0)).all(2), (sheet == (0, 255, 0)).all(2)
    assert is_photo.sum() == is_render.sum() == 4 * 10 * 12
    pictures_per_line = (is_photo | is_render).sum(1) // 12
    assert set(pictures_per_line[pictures_per_line > 0]) == {6, 2}
    assert is_photo.argmax(1).max() < is_render.any(0).argmax()


def test_appearance_is_fitted_only_when_asked_for(small_room: Scene) -> None:
    """Codes and exposures of mean zero change, features go with every Gaussian, seeds decide."""
    images, poses = images_of(small_room.train), scene.poses(small_room.train)
    lit = replace(CONFIG, iterations=12, refine_every=3, appearance_dim=4)
    a, b, plain = (
        fit(images, poses, small_room.camera, points_of(small_room), config, CPU)
        for config in (lit, lit, replace(lit, appearance_dim=0))
    )
    assert plain.appearance is None
    assert a.appearance is not None
    assert b.appearance is not None
    for one, other in zip(vars(a.appearance).values(), vars(b.appearance).values(), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad
    light = a.appearance
    assert len(light.features) == a.num > len(points_of(small_room).xyz)
    assert (light.codes.shape, light.exposure.shape) == ((8, 4), (8, 3, 4))
    torch.testing.assert_close(light.codes.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(light.exposure.mean(0), torch.eye(3, 4), atol=1e-6, rtol=0)
    assert light.output.abs().max() > 0
    assert (light.exposure - torch.eye(3, 4)).abs().max() > 0


def depths_of(frames: tuple[Frame, ...]) -> Tensor:
    maps = [frame.depth for frame in frames if isinstance(frame.depth, np.ndarray)]
    return torch.from_numpy(np.stack(maps))


def test_the_classic_strategy_fits_within_the_bound(
    small_room: Scene, device: torch.device
) -> None:
    """It gains several dB, grows, and stays below max_gaussians."""
    images, poses = images_of(small_room.train), scene.poses(small_room.train)
    config = replace(
        CONFIG, strategy="classic", max_gaussians=800, refine_every=30, opacities_lr=0.1
    )
    numbers, gains = [], []
    for iterations in (1, 120):
        fitted = fit(
            images, poses, small_room.camera, points_of(small_room),
            replace(config, iterations=iterations), device,
        )  # fmt: skip
        numbers.append(fitted.num)
        gains.append(evaluate_renders(fitted, images, poses, small_room.camera).psnr.mean())
    assert numbers[0] == 600
    assert 600 < numbers[1] <= 800
    assert gains[1] - gains[0] > 2


def test_depth_brings_the_surfaces_to_where_they_are(
    small_room: Scene, device: torch.device
) -> None:
    """With depth in the loss the rendered depth of unseen poses comes closer to the true one."""
    images, poses = images_of(small_room.train), scene.poses(small_room.train)
    depths, points = depths_of(small_room.train), points_of(small_room)
    expected = depths_of(small_room.test).to(device)
    viewpoints = geometry.invert(scene.poses(small_room.test)).float().to(device)
    errors = []
    for weight in (0.0, 0.5):
        config = replace(CONFIG, iterations=60, depth_weight=weight)
        fitted = fit(images, poses, small_room.camera, points, config, device, depths=depths)
        shown = render(fitted, small_room.camera, viewpoints, with_depth=True).depth
        assert shown is not None
        errors.append(float((shown - expected)[expected > 0].abs().mean()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.slow
def test_exposures_are_told_from_colours(small_room: Scene) -> None:
    """Photographs darkened by turns: with `exposure` it is known, and the splat fits better."""
    images, poses = images_of(small_room.train), scene.poses(small_room.train)
    darker = images.clone()
    darker[::2] = (darker[::2] * 0.6).byte()
    found = {}
    for exposure in (False, True):
        config = replace(CONFIG, exposure=exposure)
        points = points_of(small_room)
        fitted = fit(darker, poses, small_room.camera, points, config, CPU)
        found[exposure] = fitted
    assert found[False].appearance is None
    light = found[True].appearance
    assert light is not None
    brightness = light.exposure[:, :, :3].sum((1, 2))
    assert brightness[1::2].min() > 1.2 * brightness[::2].max()
    scores = {
        way: evaluate_renders(fitted, darker, poses, small_room.camera).psnr_affine.mean()
        for way, fitted in found.items()
    }
    assert scores[True] > scores[False] + 0.3
