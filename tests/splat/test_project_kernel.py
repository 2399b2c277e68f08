"""Our own projection lists what the plain one does: in the interpreter, or on a GPU."""

import importlib
import json
import sys

import pytest
import torch
from torch import Tensor

from rap import geometry
from rap.camera import Camera
from rap.splat import reference
from rap.splat.gaussians import Gaussians
from rap.splat.render import gsplat_available
from tests.processes import run_interpreted

CAMERA = Camera(30.0, 31.0, 17.0, 11.0, 35, 21)
NUM, NUM_VIEWS, TILE = 150, 3, 8
CLIPS = (0.0, 3.5, 6.0)


def differences(clip: float, antialiased: bool, device: torch.device) -> dict[str, int]:
    """How many Gaussians are seen, behind or too near; and how many have another box of tiles."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(NUM, 3, generator=generator) * torch.tensor([6.0, 6.0, 4.0]) - 3
    means[:, 2] += 2.5
    # about the near plane, before the first camera
    means[:20] = torch.linspace(0.0, 2 * reference.NEAR_M, 20)[:, None] * torch.tensor([0, 0, 1])
    normal = torch.randn(NUM, 8, generator=generator)
    gaussians = Gaussians(
        means, normal[:, :4], 0.4 * normal[:, 4:7] - 2.5, 1.5 * normal[:, 7],
        torch.zeros(NUM, 1, 3),
    ).to(device)  # fmt: skip
    rotation = geometry.random_rotations_within(NUM_VIEWS, 15.0, generator)
    offset = 0.1 * torch.randn(NUM_VIEWS, 3, generator=generator)
    rotation[0], offset[0] = torch.eye(3), torch.zeros(3)
    poses = geometry.rigid(rotation, offset).to(device)
    kernel = importlib.import_module("rap.splat.project_kernel")
    _, middles, radii, _ = kernel.project(
        gaussians, torch.rand(1, NUM, 3, device=device), CAMERA, poses, antialiased, clip,
        (TILE, TILE),
    )  # fmt: skip
    box = torch.cat([middles - radii, middles + radii], 2) / 2
    box[(radii == 0).any(-1)] = -1
    want, num_visible = boxes(gaussians, poses, antialiased, clip)
    return {
        "seen": int((want[..., 0] >= 0).sum()), "not in front": NUM * NUM_VIEWS - num_visible,
        "different": int((box != want).any(-1).sum()),
    }  # fmt: skip


def boxes(
    gaussians: Gaussians, poses: Tensor, antialiased: bool, clip: float
) -> tuple[Tensor, int]:
    """Left, top, right and bottom tile by the plain projection, -1 where nothing is seen."""
    splats = reference._project(gaussians, CAMERA, poses, antialiased)
    limit = 2 * torch.log(splats.opacity / reference.MIN_ALPHA)
    variance = torch.stack([splats.conic[:, 2] * splats.determinant, splats.variance_y], 1)
    reach = (limit.clamp(min=0)[:, None] * variance).sqrt()
    x, y = (
        reference._between(splats.mean[:, k] - reach[:, k], splats.mean[:, k] + reach[:, k], size)
        for k, size in ((0, CAMERA.width), (1, CAMERA.height))
    )
    seen = (limit >= 0) & (reference._reach_px(splats) > clip) & (x[1] > 0) & (y[1] > 0)
    ends = [(first + num - 1) // TILE + 1 for first, num in (x, y)]
    found = torch.stack([x[0] // TILE, y[0] // TILE, *ends], 1).float()
    of_all = torch.full((len(poses), gaussians.num, 4), -1.0, device=found.device)
    of_all[splats.view, splats.gaussian] = torch.where(seen[:, None], found, -1.0)
    return of_all, len(splats.view)


def check(found: list[dict[str, int]]) -> None:
    """Clips drop more and more, something is behind the near plane, and no box is another one."""
    for one in found:
        assert one["different"] == 0, found
        assert one["not in front"] > 20
    for clipped in (found[:3], found[3:]):
        assert clipped[0]["seen"] > clipped[1]["seen"] > clipped[2]["seen"] > 0


def all_of(device: torch.device) -> list[dict[str, int]]:
    return [differences(clip, antialiased, device) for antialiased in (True, False)
            for clip in CLIPS]  # fmt: skip


@pytest.mark.slow
def test_interpreted_it_lists_what_the_plain_projection_sees() -> None:
    """Clips, near plane and antialiasing; in a process of its own, as Triton's interpreter is."""
    check(run_interpreted(__file__))


@pytest.mark.cuda
def test_it_lists_what_the_plain_projection_sees() -> None:
    """The same on a GPU."""
    usable, reason = gsplat_available()
    if not usable:
        pytest.skip(reason)
    check(all_of(torch.device("cuda")))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(all_of(torch.device("cpu"))))
