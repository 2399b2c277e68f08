"""How far from its photographs a training draws its views, against the law of that draw.

No plain path can tell where a random view must lie, but what share of many lies where follows from
the law alone: shifts fill a ball, turns a range of angles, both go every way. Judged by these
shares, views that stay too near to their photographs, too far or to one side of them are seen
although everything still learns. The gate takes this file from the base as it does `frozen.py`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks import frozen
from rap.config import Config, ViewsConfig
from rap.data.images import ImageBank
from rap.geometry import rotation_angle_deg
from rap.synthesis.views import anchors_of
from rap.train.banks import Material, draw_views
from rap.train.batches import Banks

PER_ANCHOR, HEIGHT = 128, 6
"""Of views: as many of each photograph, and of few pixels, which nobody looks at."""
REACH = 0.5
"""What the curriculum of the views asks for in the first epoch."""
VIEWS = ViewsConfig(
    translation_m=0.2, rotation_deg=10.0, min_coverage=0.0, curriculum_share=1.0,
    curriculum_start=REACH,
)  # fmt: skip
LAW: frozen.Numbers = {
    "shifts": torch.full((4,), 0.25, dtype=torch.float64),
    "turns": torch.full((4,), 0.25, dtype=torch.float64),
    "ways": torch.full((3,), 0.5, dtype=torch.float64),
    "axes": torch.full((3,), 0.5, dtype=torch.float64),
}
"""Shares of all views: what `shares` tends to."""
TOLERANCE = 0.35
"""Of a share; of 512 views a quarter deviates by 0.08."""


def drawn_shares(device: torch.device) -> frozen.Numbers:
    """Where the views lie that a training draws for its first epoch around the frozen poses."""
    anchors = anchors_of(frozen.poses().float().to(device), 0.5)
    near = anchors.world_from_camera.repeat_interleave(PER_ANCHOR, dim=0)
    camera = frozen.CAMERA.with_height(HEIGHT)
    empty = torch.zeros(len(near), 3, camera.height, camera.width, dtype=torch.uint8)
    bank = ImageBank(empty, torch.zeros(len(near), 4, 4), device, 2**30, pin_memory=False)
    material = Material(
        Banks(bank, None, bank), empty[:0], bank.poses[:0], camera, "frozen",
        frozen.gaussians(torch.float32, device), anchors,
    )  # fmt: skip
    draw_views(material, Config(views=VIEWS), 0)
    reach = REACH * VIEWS.translation_m, REACH * VIEWS.rotation_deg
    return shares(near, bank.poses, *reach)


def shares(
    near: Float[Tensor, "n 4 4"],
    drawn: Float[Tensor, "n 4 4"],
    translation_m: float,
    rotation_deg: float,
) -> frozen.Numbers:
    """Shares of the views in each quarter of what they can reach, and on one side of three planes.

    Quarters of the ball's volume and of the range of angles, from the nearest to the farthest;
    what lies beyond is in none. Sides are those of the shift and of the axis of the turn.
    """
    near, drawn = near.double().cpu(), drawn.double().cpu()
    shift = drawn[:, :3, 3] - near[:, :3, 3]
    turn = near[:, :3, :3].mT @ drawn[:, :3, :3]
    skew = turn - turn.mT
    axis = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], dim=1)
    angle = rotation_angle_deg(near[:, :3, :3], drawn[:, :3, :3])
    volume = (shift.norm(dim=1) / translation_m) ** 3
    return {
        "shifts": torch.histc(volume, 4, 0, 1) / len(near),
        "turns": torch.histc(angle / rotation_deg, 4, 0, 1) / len(near),
        "ways": (shift > 0).double().mean(dim=0),
        "axes": (axis > 0).double().mean(dim=0),
    }


def beyond_the_law(found: frozen.Numbers) -> list[str]:
    """What is off by the tolerance or more; nothing where views lie as they should."""
    off = frozen.difference(found, LAW)
    return [f"{name} by {value:.2f}" for name, value in off.items() if not value < TOLERANCE]
