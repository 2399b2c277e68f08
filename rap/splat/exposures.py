"""What the exposures of the photographs are, once a splat is fitted with them left out."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from rap.camera import Camera
from rap.splat.appearance import Appearance
from rap.splat.exposure import RIDGE, solved_exposure
from rap.splat.gaussians import Gaussians
from rap.splat.harmonics import BASE
from rap.splat.objective import Targets
from rap.splat.render import render


@torch.no_grad()
def with_exposures(
    gaussians: Gaussians,
    targets: Targets,
    camera: Camera,
    camera_from_world: Float[Tensor, "m 4 4"],
) -> Gaussians:
    """The Gaussians with the exposure of each photograph beside them.

    The colours change, too, into the mean exposure of all photographs, so that a plain rendering
    shows what the camera shows on average.
    """
    exposures = []
    for chosen in torch.arange(len(camera_from_world), device=camera_from_world.device).split(1):
        light = gaussians.appearance
        codes = None if light is None else light.codes[chosen]
        rgb = render(gaussians, camera, camera_from_world[chosen], codes=codes).rgb
        mask = targets.counted(chosen)
        exposures.append(solved_exposure(rgb, targets.photos(chosen), RIDGE, mask))
    return centred(gaussians, torch.cat(exposures))


def centred(gaussians: Gaussians, exposure: Float[Tensor, "m 3 4"]) -> Gaussians:
    """The same pictures from Gaussians in the mean exposure, and exposures relative to it.

    Exact wherever the Gaussians are opaque: an affine change of all colours is one of the picture.
    Codes change each channel by itself, and nothing that mixes channels can pass through them:
    with codes, the colours get the gains and offsets by which the mean exposure changes greys.
    """
    mean, light = exposure.mean(0), gaussians.appearance
    gain, offset = mean[:, :3], mean[:, 3]
    if light is not None:
        gain = gain.sum(1).diag()
    base = gaussians.sh[:, 0] @ gain.T + ((0.5 * gain.sum(1) + offset - 0.5) / BASE)
    sh = torch.cat([base[:, None], gaussians.sh[:, 1:] @ gain.T], dim=1)
    relative = exposure[:, :, :3] @ torch.linalg.inv(gain)
    shift = exposure[:, :, 3:] - relative @ offset[:, None]
    relative = torch.cat([relative, shift], dim=2)
    if light is None:
        light = exposures_alone(gaussians, relative)
    else:
        output = _in_exposure(light.output, gain.diagonal(), offset)
        light = replace(light, output=output, exposure=relative)
    return replace(gaussians, sh=sh, appearance=light)


def _in_exposure(
    output: Float[Tensor, "h f6"], gain: Float[Tensor, "3"], offset: Float[Tensor, "3"]
) -> Float[Tensor, "h f6"]:
    """The head for colours after a gain and an offset: what was c + c·g + o stays the same there.

    Of new colours gain·c + offset, that is the gain g and the offset gain·o - offset·g.
    """
    gains, offsets = output.unflatten(1, (-1, 2, 3)).unbind(2)
    return torch.stack([gains, gain * offsets - offset * gains], dim=2).flatten(1)


def exposures_alone(gaussians: Gaussians, exposure: Float[Tensor, "m 3 4"]) -> Appearance:
    """An appearance in which photographs differ by their exposure only: codes of no numbers."""
    empty = gaussians.means.new_empty
    return Appearance(
        codes=empty(len(exposure), 0),
        features=empty(gaussians.num, 0),
        hidden=empty(0, 0),
        output=empty(0, 0),
        exposure=exposure,
    )
