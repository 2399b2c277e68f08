"""The picture of one pose in several appearances."""

from dataclasses import replace

import torch

from rap.camera import Camera
from rap.config import ViewsConfig
from rap.splat.appearance import Appearance, identity_exposure
from rap.splat.gaussians import Gaussians
from rap.splat.render import render
from rap.synthesis.appearance_sheet import appearance_sheet, grid, mean_and_new

CAMERA = Camera(20.0, 20.0, 8.0, 6.0, 16, 12)
POSE = torch.eye(4)[None]


def lit_cloud() -> Gaussians:
    """Some Gaussians in front of the camera that two photographs saw in different light."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(40, 3, generator=generator) * 2 - 1
    means[:, 2] += 3
    codes = torch.tensor([[1.0, -0.5], [-1.0, 0.5]])
    light = Appearance(
        codes, torch.rand(40, 3, generator=generator), torch.eye(2),
        torch.randn(2, 18, generator=generator), identity_exposure(2, means),
    )  # fmt: skip
    return Gaussians(
        means,
        torch.tensor([1.0, 0, 0, 0]).repeat(40, 1),
        torch.full((40, 3), -1.5),
        torch.full((40,), 3.0),
        torch.rand(40, 1, 3, generator=generator),
        appearance=light,
    )


def test_twelve_appearances_fill_three_rows_and_begin_with_the_mean() -> None:
    """Four pictures a row, all different, the first as other tools draw the .ply."""
    cloud = lit_cloud()
    assert cloud.appearance is not None
    light = mean_and_new(cloud.appearance, 12, ViewsConfig(), seed=3)
    sheet = appearance_sheet(cloud, CAMERA, POSE, light)
    assert sheet.shape == (3, 3 * 12, 4 * 16)
    plain = render(replace(cloud, appearance=None), CAMERA, POSE).rgb[0]
    assert torch.equal(sheet[:, :12, :16], plain)
    cells = sheet.unflatten(1, (3, 12)).unflatten(3, (4, 16)).permute(1, 3, 0, 2, 4).flatten(0, 1)
    assert len({cell.sum().item() for cell in cells}) == 12


def test_without_light_the_sheet_is_the_picture() -> None:
    """Switched off, `rap render` draws what it drew."""
    cloud = lit_cloud()
    plain = render(cloud, CAMERA, POSE).rgb[0]
    assert torch.equal(appearance_sheet(cloud, CAMERA, POSE, None), plain)


def test_grid_keeps_order_and_leaves_white() -> None:
    """Row by row; places without a picture are white."""
    pictures = [torch.full((3, 2, 3), i / 10) for i in range(5)]
    sheet = grid(pictures)
    assert sheet.shape == (3, 4, 12)
    corners = sheet[0, ::2, ::3].flatten().tolist()
    expected = torch.tensor([0, 0.1, 0.2, 0.3, 0.4, 1, 1, 1]).tolist()
    assert corners == expected
