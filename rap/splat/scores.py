"""How well a splat's renderings equal photographs taken at the same poses."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from rap import geometry
from rap.camera import Camera
from rap.splat import quality
from rap.splat.gaussians import Gaussians
from rap.splat.render import render


class RenderScores(NamedTuple):
    """How well renderings equal the photographs taken at the same poses.

    NaN for a photograph that a mask leaves out altogether.
    """

    psnr: Float[Tensor, " n"]
    """Per frame, dB."""
    psnr_affine: Float[Tensor, " n"]
    """Per frame, dB, after the colour map of the rendering that fits its photograph best."""
    ssim: Float[Tensor, " n"]
    """Per frame."""
    ssim_affine: Float[Tensor, " n"]
    """Per frame, after the same colour map."""
    renders: UInt8[Tensor, "n 3 h w"]
    """On the CPU."""


def evaluate_renders(
    gaussians: Gaussians,
    images: UInt8[Tensor, "n 3 h w"],
    poses: Float[Tensor, "n 4 4"],
    camera: Camera,
    masks: Bool[Tensor, "n h w"] | None = None,
) -> RenderScores:
    """Render at every pose, as pictures of 8 bits, and score them against the photographs.

    Where `masks` are false the pictures do not count.
    """
    device = gaussians.means.device
    camera_from_world = geometry.invert(poses.double()).float().to(device)
    rows, renders = [], []
    with torch.no_grad():
        for index, viewpoint in enumerate(camera_from_world):
            rgb = render(gaussians, camera, viewpoint[None]).rgb
            picture = (rgb.clamp(0, 1) * 255).round()
            photo = images[index][None].to(device).float() / 255
            mask = None if masks is None else masks[index][None].to(device)
            plain = picture / 255
            lit = quality.after_affine(plain, photo, mask)
            scores = [
                score(shown, photo, mask)
                for score in (quality.psnr, quality.ssim_each)
                for shown in (plain, lit)
            ]
            rows.append(torch.cat(scores))
            renders.append(picture.byte().cpu())
    psnr, psnr_affine, ssim, ssim_affine = torch.stack(rows, dim=1).cpu()
    return RenderScores(psnr, psnr_affine, ssim, ssim_affine, torch.cat(renders))
