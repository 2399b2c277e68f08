"""The sheet of accepted and rejected views, and the flag that asks for it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rap import cli
from rap.camera import Camera
from rap.config import ViewsConfig
from rap.data.images import ImageBank
from rap.data.room import RoomSpec, write
from rap.splat.appearance import Appearance, identity_exposure
from rap.splat.gaussians import Gaussians, save_ply
from rap.splat.sheet import Group, grouped_sheet
from rap.synthesis import gallery
from rap.synthesis.brisque import brisque
from rap.synthesis.drawing import prepared
from rap.synthesis.gallery import Judged, filter_sheet, judged_views
from rap.synthesis.views import anchors_of, refresh_views
from tests.synthesis.test_brisque import synthetic_model

CAMERA = Camera(40.0, 40.0, 16.0, 12.0, 32, 24)
POSES = torch.eye(4).repeat(2, 1, 1)


def some_gaussians() -> Gaussians:
    """A cloud three metres in front of the origin."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(80, 3, generator=generator) * 2 - 1
    means[:, 2] += 3
    return Gaussians(
        means,
        torch.tensor([1.0, 0, 0, 0]).repeat(80, 1),
        torch.full((80, 3), -2.0),
        torch.full((80,), 3.0),
        torch.rand(80, 1, 3, generator=generator),
    )


def judged(device: torch.device, config: ViewsConfig) -> Judged:
    generator = torch.Generator(device).manual_seed(0)
    gaussians = some_gaussians().to(device)
    return judged_views(gaussians, CAMERA, POSES, config, generator, num=11)


def test_views_are_measured_as_they_are_drawn(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own picture, its coverage, and the score of that picture."""
    model = synthetic_model()
    monkeypatch.setattr(gallery, "load_brisque", lambda: model)
    views = judged(device, ViewsConfig(max_brisque=10.0, render_batch=4))
    assert views.images.shape == (11, 3, 24, 32)
    assert views.images.flatten(1).unique(dim=0).shape[0] == 11
    assert bool(((views.coverage > 0.05) & (views.coverage < 1)).all())
    assert views.scores is not None
    expected = brisque(views.images / 255, model)
    torch.testing.assert_close(views.scores, expected, rtol=0, atol=0.05)


def test_views_are_drawn_as_a_training_draws_them(device: torch.device) -> None:
    """Into its bank: prepared Gaussians, each anchor's exposure, poses of the same seed."""
    gaussians = some_gaussians()
    light = Appearance(
        torch.zeros(2, 0), torch.zeros(gaussians.num, 3), torch.zeros(0, 4), torch.zeros(4, 18),
        identity_exposure(2, gaussians.means) * torch.tensor([0.4, 1.0]).view(2, 1, 1),
    )  # fmt: skip
    # degree 1, so that baking changes the picture
    sh = torch.randn(80, 4, 3, generator=torch.Generator().manual_seed(3))
    gaussians = replace(gaussians, sh=sh, appearance=light).to(device)
    assert gaussians.appearance is not None
    poses = POSES.to(device)
    poses[:, 0, 3] += torch.tensor([0.0, 0.4], device=device)
    config = ViewsConfig(colors="baked", min_coverage=0.0)
    anchors = anchors_of(poses, config.bounds_margin_m, gaussians.appearance.exposure)
    empty = torch.zeros(2, 3, CAMERA.height, CAMERA.width, dtype=torch.uint8)
    bank = ImageBank(empty, torch.zeros(2, 4, 4), device, 2**30, pin_memory=False)
    generator = torch.Generator(device)
    ready = prepared(gaussians, poses[:, :3, 3].mean(0), config)
    refresh_views(bank, ready, CAMERA, anchors, config, generator.manual_seed(0))
    views = judged_views(
        gaussians, CAMERA, poses, config, generator.manual_seed(0), num=2,
        exposure=gaussians.appearance.exposure,
    )  # fmt: skip
    assert (views.images.int() - bank.images.cpu().int()).abs().max() <= 1
    assert views.images[0].float().mean() < 0.7 * views.images[1].float().mean()


def test_without_a_threshold_nothing_is_scored(device: torch.device) -> None:
    """The parameters need not be installed then."""
    assert judged(device, ViewsConfig()).scores is None


def test_the_sheet_says_what_passes(tmp_path: Path) -> None:
    """Both limits hold for what passes, and the picture has room for all that is shown."""
    images = torch.randint(0, 255, (8, 3, 24, 32), dtype=torch.uint8)
    coverage = torch.tensor([0.9, 0.8, 0.7, 0.2, 0.9, 0.9, 0.9, 0.9])
    scores = torch.tensor([10.0, 20.0, 30.0, 10.0, 80.0, torch.inf, 5.0, 15.0])
    path = tmp_path / "sheet.png"
    config = ViewsConfig(min_coverage=0.5, max_brisque=50.0)
    passed = filter_sheet(path, Judged(images, coverage, scores), config)
    assert passed.tolist() == [True, True, True, False, False, False, True, True]
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    best = images[6].permute(1, 2, 0).numpy()
    assert (pixels[42 : 42 + 24, 6 : 6 + 32] == best).all(), "the best accepted view comes first"


@pytest.mark.parametrize("enough", [0.0, 0.99])
def test_a_sheet_with_one_kind_only_is_drawn(tmp_path: Path, enough: float) -> None:
    """All pass, or none does."""
    images = torch.zeros(3, 3, 24, 32, dtype=torch.uint8)
    views = Judged(images, torch.tensor([0.3, 0.4, 0.5]), None)
    path = tmp_path / "sheet.png"
    assert int(filter_sheet(path, views, ViewsConfig(min_coverage=enough)).sum()) in (0, 3)
    assert path.is_file()


def test_groups_lie_below_each_other(tmp_path: Path) -> None:
    """Six pictures to a row, each group on rows of its own."""
    images = torch.full((7, 3, 10, 20), 7, dtype=torch.uint8)
    groups = [Group("a", images, ["x"] * 7), Group("b", images[:1], ["x"])]
    grouped_sheet(tmp_path / "sheet.png", groups)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert (pixels == 7).all(axis=2).sum() == 8 * 10 * 20
    assert pixels.shape[1] == 6 * 26 + 6


def test_rap_render_makes_the_sheet(tmp_path: Path) -> None:
    """Beside its pictures; a sheet that is there is not overwritten."""
    save_ply(tmp_path / "splat.ply", some_gaussians())
    camera = {"fx": 40, "fy": 40, "cx": 16, "cy": 12, "width": 32, "height": 24}
    (tmp_path / "camera.json").write_text(json.dumps(camera))
    np.savetxt(tmp_path / "front.pose.txt", np.eye(4))
    flags = ["render", "--splat", str(tmp_path / "splat.ply")]
    flags += ["--poses", str(tmp_path / "front.pose.txt")]
    flags += ["--camera", str(tmp_path / "camera.json")]
    sheet = ["--filter-sheet", str(tmp_path / "sheet.png"), "--views.min-coverage", "0.1"]
    assert cli.main([*flags, "-o", str(tmp_path / "out"), *sheet, "--device", "cpu"]) == 0
    assert (tmp_path / "sheet.png").is_file()
    assert cli.main([*flags, "-o", str(tmp_path / "again"), *sheet]) == 2
    assert not (tmp_path / "again").exists()


def test_views_are_not_drawn_smaller_than_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in training, where they would be enlarged, too."""
    camera = {"fx": 40, "fy": 40, "cx": 16, "cy": 12, "width": 32, "height": 24}
    (tmp_path / "camera.json").write_text(json.dumps(camera))
    np.savetxt(tmp_path / "front.pose.txt", np.eye(4))
    command = ["render", "--splat", "a.ply", "--poses", str(tmp_path / "front.pose.txt")]
    command += ["--camera", str(tmp_path / "camera.json"), "-o", str(tmp_path / "out")]
    assert cli.main([*command, "--views.render-height", "24", "--height", "60"]) == 2
    expected = "views.render_height = 24 must be at least the images' height = 60: views are shrunk"
    assert expected in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_sheet_shows_the_views_of_the_seed_and_the_light_of_the_photographs(
    tmp_path: Path,
) -> None:
    """Training poses have the exposures that the splat knows; another seed has other views."""
    room = RoomSpec(num_train=4, num_test=2, width=32, height=24, num_points=50)
    write(room, tmp_path / "room")
    splat = some_gaussians()
    light = Appearance(
        torch.zeros(4, 0), torch.zeros(splat.num, 3), torch.zeros(0, 4), torch.zeros(4, 18),
        torch.zeros(4, 3, 4) + torch.tensor([0.0, 0.0, 0.0, 1.0]),
    )  # fmt: skip
    save_ply(tmp_path / "splat.ply", replace(splat, appearance=light))

    def sheet(name: str, *flags: str) -> bytes:
        path = tmp_path / f"{name}.png"
        command = ["render", "--splat", str(tmp_path / "splat.ply"), "--device", "cpu"]
        command += ["--poses", str(tmp_path / "room"), "-o", str(tmp_path / name)]
        command += ["--views.min-coverage", "0.0", "--filter-sheet", str(path)]
        assert cli.main([*command, *flags]) == 0
        return path.read_bytes()

    assert sheet("one") == sheet("again") != sheet("other", "--seed", "8")
    sheet("train", "--split", "train")
    with Image.open(tmp_path / "train.png") as picture:
        pixels = np.asarray(picture)[42 : 42 + 24, 6 : 6 + 32]
    assert (pixels == 255).all(), "the exposure of these photographs turns all white"
