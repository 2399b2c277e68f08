"""How well a splat's renderings equal photographs taken at the same poses."""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rap import geometry
from rap.camera import Camera
from rap.splat import quality
from rap.splat.gaussians import Gaussians
from rap.splat.render import render


class RenderScores(NamedTuple):
    """How well renderings equal the photographs taken at the same poses."""

    psnr: Float[Tensor, " n"]
    """Per frame, dB."""
    psnr_affine: Float[Tensor, " n"]
    """Per frame, dB, after the colour map of the rendering that fits its photograph best."""
    ssim: Float[Tensor, " n"]
    """Per frame."""
    renders: UInt8[Tensor, "n 3 h w"]
    """On the CPU."""


def evaluate_renders(
    gaussians: Gaussians,
    images: UInt8[Tensor, "n 3 h w"],
    poses: Float[Tensor, "n 4 4"],
    camera: Camera,
) -> RenderScores:
    """Render at every pose, as pictures of 8 bits, and score them against the photographs."""
    device = gaussians.means.device
    camera_from_world = geometry.invert(poses.double()).float().to(device)
    psnr, psnr_affine, ssim, renders = [], [], [], []
    with torch.no_grad():
        for photo, viewpoint in zip(images, camera_from_world, strict=True):
            rgb = render(gaussians, camera, viewpoint[None]).rgb
            picture = (rgb.clamp(0, 1) * 255).round()
            target = photo[None].to(device).float() / 255
            psnr.append(quality.psnr(picture / 255, target))
            psnr_affine.append(quality.psnr_affine(picture / 255, target))
            ssim.append(quality.ssim(picture / 255, target)[None])
            renders.append(picture.byte().cpu())
    return RenderScores(
        torch.cat(psnr).cpu(), torch.cat(psnr_affine).cpu(), torch.cat(ssim).cpu(),
        torch.cat(renders),
    )  # fmt: skip
