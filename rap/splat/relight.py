"""The light of a photograph that the fit never saw, found by looking at half of it.

Gaussians stay as they are; only a code and an exposure move. What is fitted to a picture cannot be
scored on the same pixels, so the light is read from the left half and scored on the right half
(Martin-Brualla et al., "NeRF in the Wild", CVPR 2021).
"""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from rap import geometry
from rap.camera import Camera
from rap.splat import quality
from rap.splat.appearance import identity_exposure
from rap.splat.exposure import RIDGE, solved_exposure
from rap.splat.gaussians import Gaussians
from rap.splat.memory import in_batches
from rap.splat.render import render

NUM_STEPS = 60
MAX_HEIGHT = 60
"""Light is read from a picture no higher than this: it has no fine detail."""
_CODE_RATE = 0.1
"""In units of the spread of the training photographs' codes."""
_EXPOSURE_RATE = 0.01
_PRIOR = 1e-5
"""Weight of the codes' squares in those units, and of the squares of what an exposure changes."""
_VIEWS_PER_CALL = 8


Images = UInt8[Tensor, "n 3 h w"]
Masks = Bool[Tensor, "n h w"] | None
Values = Float[Tensor, " n"]


class Light(NamedTuple):
    """How v photographs are lit."""

    codes: Float[Tensor, "v c"] | None
    """None where the Gaussians have no appearance."""
    exposure: Float[Tensor, "v 3 4"]


class RelitScores(NamedTuple):
    """Of the right halves of photographs; PSNR in dB, one value per frame.

    NaN for a photograph whose right half a mask leaves out altogether.
    """

    mean: Float[Tensor, " n"]
    """In the mean appearance."""
    exposed: Float[Tensor, " n"]
    """With an exposure alone fitted to the left half: what a colour affine can explain."""
    relit: Float[Tensor, " n"]
    """With a code and an exposure fitted to the left half."""
    ssim: Float[Tensor, "3 n"]
    """SSIM in the same three ways."""


def read_light(
    gaussians: Gaussians,
    images: UInt8[Tensor, "v 3 h w"],
    camera_from_world: Float[Tensor, "v 4 4"],
    camera: Camera,
    *,
    with_codes: bool = True,
    masks: Bool[Tensor, "v h w"] | None = None,
) -> Light:
    """The code and the exposure with which the left halves of photographs are drawn best.

    Where `masks` are false the photographs do not count.
    """
    small = camera.with_height(min(camera.height, MAX_HEIGHT))
    half = slice(0, small.width // 2)
    photos = functional.interpolate(
        images.to(gaussians.means.device).float() / 255, (small.height, small.width),
        mode="bilinear", antialias=True,
    )  # fmt: skip
    counted = _counted(masks, small)[..., half] if masks is not None else None
    appearance = gaussians.appearance
    if appearance is None or not appearance.num_codes or not with_codes:
        with torch.no_grad():
            rgb = render(gaussians, small, camera_from_world).rgb[..., half]
        return Light(None, solved_exposure(rgb, photos[..., half], RIDGE, counted))
    same = identity_exposure(len(images), photos)
    change = torch.zeros_like(same, requires_grad=True)
    shape = (len(images), appearance.codes.shape[1])
    standard = torch.zeros(shape, device=photos.device, requires_grad=True)
    optimizer = torch.optim.Adam(
        [{"params": [change], "lr": _EXPOSURE_RATE}, {"params": [standard], "lr": _CODE_RATE}]
    )

    def light() -> tuple[Float[Tensor, "v c"], Float[Tensor, "v 3 4"]]:
        return standard * appearance.codes.std(0), same + change

    for _ in range(NUM_STEPS):
        codes, exposure = light()
        drawn = render(gaussians, small, camera_from_world, codes=codes, exposure=exposure)
        # per picture, so that none minds what else is in the call
        loss = _error((drawn.rgb - photos)[..., half], counted).sum()
        loss = loss + _PRIOR * change.square().mean(dim=(1, 2)).sum()
        loss = loss + _PRIOR * standard.square().mean(dim=1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    codes, exposure = light()
    return Light(codes.detach(), exposure.detach())


def _counted(masks: Bool[Tensor, "v h w"], small: Camera) -> Bool[Tensor, "v {small.height} _"]:
    """Pixels of a smaller picture that see nothing of what a mask leaves out."""
    hidden = (~masks[:, None]).float()
    size = (small.height, small.width)
    return functional.interpolate(hidden, size, mode="bilinear", antialias=True)[:, 0] == 0


def _error(
    difference: Float[Tensor, "v 3 h w"], counted: Bool[Tensor, "v h w"] | None
) -> Float[Tensor, " v"]:
    """Mean square over the pixels that count; 0 where there are none."""
    squares = difference.square()
    if counted is None:
        return squares.mean(dim=(1, 2, 3))
    num = counted.sum(dim=(1, 2)).clamp(min=1)
    return (squares.mean(1) * counted).sum(dim=(1, 2)) / num


def score_relit(
    gaussians: Gaussians,
    images: UInt8[Tensor, "n 3 h w"],
    poses: Float[Tensor, "n 4 4"],
    camera: Camera,
    masks: Bool[Tensor, "n h w"] | None = None,
) -> RelitScores:
    """The right halves in the mean appearance, and in light that was read from the left halves.

    Where `masks` are false the pictures do not count. With fewer views in a call where memory runs
    out.
    """
    device = gaussians.means.device
    camera_from_world = geometry.invert(poses.double()).float().to(device)
    rows = []

    def score(chosen: slice) -> None:
        photos, viewpoints = images[chosen], camera_from_world[chosen]
        mask = None if masks is None else masks[chosen].to(device)
        read = partial(read_light, gaussians, photos, viewpoints, camera, masks=mask)
        exposed = relit = read(with_codes=False)
        if gaussians.appearance is not None and gaussians.appearance.num_codes:
            relit = read()
        plain = Light(None, identity_exposure(len(photos), exposed.exposure))
        rows.append(torch.cat(
            [_right_scores(gaussians, photos, viewpoints, camera, light, mask)
             for light in (plain, exposed, relit)]
        ))  # fmt: skip

    in_batches(len(images), _VIEWS_PER_CALL, score)
    found = torch.cat(rows, dim=1).cpu()
    mean, exposed, relit = found[0::2]
    return RelitScores(mean, exposed, relit, found[1::2])


@torch.no_grad()
def _right_scores(
    gaussians: Gaussians,
    images: UInt8[Tensor, "v 3 h w"],
    camera_from_world: Float[Tensor, "v 4 4"],
    camera: Camera,
    light: Light,
    mask: Bool[Tensor, "v h w"] | None,
) -> Float[Tensor, "2 v"]:
    """PSNR and SSIM."""
    drawn = render(gaussians, camera, camera_from_world, codes=light.codes, exposure=light.exposure)
    pictures = (drawn.rgb.clamp(0, 1) * 255).round() / 255
    right = slice(camera.width // 2, None)
    photos = images.to(pictures.device).float() / 255
    halves = pictures[..., right], photos[..., right], None if mask is None else mask[..., right]
    return torch.stack([quality.psnr(*halves), quality.ssim_each(*halves)])
