"""Splats for rendering: a random cloud of stated overlap, or a fitted one from a file.

Like `workloads.py` appended to, never changed: stored numbers depend on them.
"""

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks import workloads
from benchmarks.harness import axis
from benchmarks.workloads import SEED, Scale
from rap.camera import Camera
from rap.geometry import random_rotations_within, rigid
from rap.scene import poses
from rap.splat.appearance import Appearance
from rap.splat.gaussians import Gaussians, load_ply
from rap.splat.harmonics import BASE

OVERLAP = 40
"""Of `cloud`: Gaussians within whose three deviations a pixel of a 640 x 480 view lies."""
CLOUD_FOCAL = 525 / 640
"""Focal length over image width for which `OVERLAP` holds."""


def cloud(num: int, sh_degree: int, device: torch.device) -> Gaussians:
    """Random Gaussians in front of the origin, in random colours and light: a splat of no scene.

    Uniform in a box of 4×3×4 m from 1.5 m on along z, of which a camera at the origin sees about
    two thirds; sizes shrink with the number, so that the overlap stays. The same on every device.
    """
    generator = torch.Generator().manual_seed(SEED)
    size, near = torch.tensor([4.0, 3.0, 4.0]), torch.tensor([-2.0, -1.5, 1.5])
    middle_m = 3.5
    # OVERLAP · 640 · 480 pixels = num · π · (3 · σ · focal / z)²
    sigma_px = (OVERLAP * 640 * 480 / (num * torch.pi)) ** 0.5 / 3
    sigma_m = torch.tensor(sigma_px * middle_m / (CLOUD_FOCAL * 640))
    normal = torch.randn(num, 11 + 3 * (sh_degree + 1) ** 2, generator=generator)
    colours = torch.rand(num, 3, generator=generator)
    sh = 0.1 * normal[:, 11:].unflatten(1, (-1, 3))
    sh[:, 0] = (colours - 0.5) / BASE
    return Gaussians(
        means=near + size * torch.rand(num, 3, generator=generator),
        quats=normal[:, :4],
        log_scales=sigma_m.log() + 0.4 * normal[:, 4:7],
        opacity_logits=1.5 * normal[:, 7],
        sh=sh,
        appearance=light(num),
    ).to(device)


def light(num: int, num_images: int = 32) -> Appearance:
    """A random appearance for `num` Gaussians, of the sizes that a fit has."""
    generator = torch.Generator().manual_seed(SEED + 1)
    change = torch.eye(3, 4) + 0.05 * torch.randn(num_images, 3, 4, generator=generator)
    return Appearance(
        codes=torch.randn(num_images, 8, generator=generator),
        features=torch.randn(num, 16, generator=generator),
        hidden=torch.randn(8, 32, generator=generator) / 8**0.5,
        output=0.01 * torch.randn(32, 16 * 6, generator=generator),
        exposure=change,
    )


def cloud_poses(num: int) -> Float[Tensor, "{num} 4 4"]:
    """Cameras at the origin of `cloud`, within 20 cm and 8 degrees of looking along z."""
    generator = torch.Generator().manual_seed(SEED + 2)
    turn = random_rotations_within(num, 8.0, generator)
    return rigid(turn, 0.2 * (2 * torch.rand(num, 3, generator=generator) - 1))


SPLATS = axis(["small"], cuda=["large", "huge"], full=["medium", "fitted"])
CURVE_ONLY = ("medium", "huge")
"""Splats for the curve over the number of Gaussians, not for every switch."""
FITTED = "BENCHMARK_SPLAT"
"""The environment's name for the `.ply` of the `fitted` splat; without it those cases skip."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A splat, its light, and cameras that see it."""

    gaussians: Gaussians
    camera: Camera
    eye: Float[Tensor, "3"]
    """About where the cameras are."""
    photographed: Float[Tensor, "m 4 4"] | None = None
    """Poses of the photographs that a fitted splat is of, where `--scene` names them."""

    def poses(self, num: int) -> Float[Tensor, "{num} 4 4"]:
        """Cameras of photographs, evenly spread; without them, near the eye and along z."""
        if self.photographed is not None:
            return self.photographed[torch.arange(num) * len(self.photographed) // num]
        near = cloud_poses(num)
        near[:, :3, 3] += self.eye
        return near


def shown(name: str, scale: Scale, device: torch.device, scene: str = "room") -> Shown:
    """`small` to `huge`: the cloud at the scale's count; `fitted`: the file of `BENCHMARK_SPLAT`.

    A fitted splat is seen by the cameras of the scene, if that is a folder, else from its middle;
    in random light where it knows no codes.
    """
    width = scale.render_height * 4 // 3
    camera = Camera(
        CLOUD_FOCAL * width, CLOUD_FOCAL * width, width / 2, scale.render_height / 2,
        width, scale.render_height,
    )  # fmt: skip
    if name != "fitted":
        count = scale.num_gaussians[name]
        return Shown(cloud(count, scale.sh_degree, device), camera, torch.zeros(3))
    path = os.environ.get(FITTED)
    if path is None:
        pytest.skip(f"no fitted splat: set {FITTED} to a .ply")
    gaussians = load_ply(Path(path))
    if gaussians.appearance is None or gaussians.appearance.num_codes == 0:
        gaussians = replace(gaussians, appearance=light(gaussians.num))
    if scene == "room":
        return Shown(gaussians.to(device), camera, gaussians.means.median(0).values)
    real = workloads.scene(scene, scale.room)
    photographed = poses(real.train).float()
    camera = real.camera.with_height(scale.render_height)
    return Shown(gaussians.to(device), camera, photographed[:, :3, 3].mean(0), photographed)


def parameters(gaussians: Gaussians) -> list[Tensor]:
    """All tensors of a splat, its appearance included."""
    parts = [*vars(gaussians).values()]
    if gaussians.appearance is not None:
        parts += [getattr(gaussians.appearance, field.name) for field in fields(Appearance)]
    return [part for part in parts if isinstance(part, Tensor)]


def in_float64(gaussians: Gaussians) -> Gaussians:
    """The same Gaussians for the exact picture."""
    found = gaussians.appearance
    if found is not None:
        found = Appearance(*(getattr(found, field.name).double() for field in fields(found)))
    return replace(
        gaussians, means=gaussians.means.double(), quats=gaussians.quats.double(),
        log_scales=gaussians.log_scales.double(), sh=gaussians.sh.double(),
        opacity_logits=gaussians.opacity_logits.double(), appearance=found,
    )  # fmt: skip
