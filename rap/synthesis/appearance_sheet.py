"""One pose in several appearances, side by side."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rap.camera import Camera
from rap.config import ViewsConfig
from rap.splat.appearance import Appearance, identity_exposure
from rap.splat.gaussians import Gaussians
from rap.splat.render import render
from rap.synthesis.appearances import NewAppearances, draw_appearances

COLUMNS = 4


def mean_and_new(
    appearance: Appearance, num: int, config: ViewsConfig, seed: int
) -> NewAppearances:
    """The mean appearance and `num` - 1 new ones, on the appearance's device."""
    generator = torch.Generator(appearance.codes.device).manual_seed(seed)
    new = draw_appearances(appearance, num - 1, config, generator)
    same = identity_exposure(1, appearance.exposure)
    return NewAppearances(
        torch.cat([torch.zeros_like(appearance.codes[:1]), new.codes]),
        torch.cat([same, new.exposure]),
    )


@torch.no_grad()
def appearance_sheet(
    gaussians: Gaussians,
    camera: Camera,
    camera_from_world: Float[Tensor, "1 4 4"],
    light: NewAppearances | None,
    *,
    antialiased: bool | None = None,
) -> Float[Tensor, "3 y x"]:
    """The pose in every appearance, in rows of four; without light, in the mean one alone."""
    if light is None:
        return render(gaussians, camera, camera_from_world, antialiased=antialiased).rgb[0]
    pictures = [
        render(
            gaussians, camera, camera_from_world, antialiased=antialiased,
            codes=codes[None], exposure=exposure[None],
        ).rgb[0]
        for codes, exposure in zip(light.codes, light.exposure, strict=True)
    ]  # fmt: skip
    return grid(pictures)


def grid(pictures: Sequence[Float[Tensor, "3 h w"]]) -> Float[Tensor, "3 y x"]:
    """Row by row, white where pictures are missing."""
    columns = min(COLUMNS, len(pictures))
    missing = -len(pictures) % columns
    cells = torch.stack([*pictures, *[torch.ones_like(pictures[0])] * missing])
    rows = cells.unflatten(0, (-1, columns))
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
