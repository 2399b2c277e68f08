"""Colours of Gaussians seen from cameras, in an appearance: evaluated for each view, or baked."""

import importlib
from dataclasses import replace
from functools import cache, partial
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from rap import log
from rap.kernels import failure
from rap.splat.appearance import Appearance, apply_affine, color_affine, identity_exposure
from rap.splat.gaussians import Gaussians
from rap.splat.harmonics import BASE, basis
from rap.splat.light import NUM_FEATURES


def view_colors(
    gaussians: Gaussians,
    camera_from_world: Float[Tensor, "v 4 4"],
    codes: Float[Tensor, "v c"] | None = None,
    sh_degree: int | None = None,
    fused: bool = True,
) -> Float[Tensor, "#v n 3"]:
    """Colour of every Gaussian seen from every camera centre, at least 0.

    With `codes` each view has the appearance of its code. Harmonics above `sh_degree` are left
    out. At degree 0 and without codes all views share one set. `fused` takes one Triton kernel
    where it can: on CUDA, when no gradient is asked for. Plain torch needs 4·(degree + 1)² bytes
    of harmonics, and 24 of gains and offsets, for each (view, Gaussian).
    """
    if codes is not None and gaussians.appearance is None:
        raise ValueError("codes are given, but these Gaussians were fitted without appearance")
    degree = used_degree(gaussians, sh_degree)
    rotation, translation = camera_from_world[:, :3, :3], camera_from_world[:, :3, 3:]
    centres = -(rotation.mT @ translation).squeeze(-1)
    if degree == 0 and codes is None:
        return harmonic_colors(gaussians, centres[:1], degree).clamp_min(0)
    needs_gradients = _needs_gradients(gaussians, camera_from_world, codes)
    if fused and not needs_gradients and kernel_usable(gaussians):
        kernel = importlib.import_module("rap.splat.color_kernel")
        return kernel.fused_colors(gaussians, centres, codes, degree)
    colors = harmonic_colors(gaussians, centres if degree else centres[:1], degree)
    if codes is None or gaussians.appearance is None:
        return colors.clamp_min(0)
    return apply_affine(colors, color_affine(gaussians.appearance, codes.to(colors)))


def baked(gaussians: Gaussians, eye: Float[Tensor, "3"], degree: int | None = None) -> Gaussians:
    """The same Gaussians in the colours that they show to one point, from everywhere.

    Degree 0 then costs nothing per view; what is lost is how colours change as the camera moves
    away from that point. The appearance stays.
    """
    colors = harmonic_colors(
        gaussians, eye[None].to(gaussians.means), used_degree(gaussians, degree)
    )
    return replace(gaussians, sh=(colors[0, :, None] - 0.5) / BASE)


def harmonic_colors(
    gaussians: Gaussians, centres: Float[Tensor, "v 3"], degree: int
) -> Float[Tensor, "v n 3"]:
    """Colours seen from points in the world, before any appearance; they may be below 0."""
    if degree == 0:
        return (0.5 + BASE * gaussians.sh[:, 0]).expand(len(centres), -1, -1)
    offsets = gaussians.means - centres[:, None]
    values = basis(torch.nn.functional.normalize(offsets, dim=-1), degree)
    return 0.5 + torch.einsum("vnk,nkc->vnc", values, gaussians.sh[:, : values.shape[-1]])


def used_degree(gaussians: Gaussians, sh_degree: int | None) -> int:
    """The degree to evaluate: all that is stored, or less."""
    return gaussians.sh_degree if sh_degree is None else min(sh_degree, gaussians.sh_degree)


def kernel_usable(gaussians: Gaussians) -> bool:
    """Whether the kernel can evaluate these colours: float32 on a CUDA device, Triton works."""
    device = gaussians.means.device
    if device.type != "cuda" or gaussians.means.dtype != torch.float32:
        return False
    return kernel_problem(device) is None


@cache
def kernel_problem(device: torch.device) -> str | None:
    """Why the kernel cannot run on a CUDA device, found by running it once; said in one line."""
    problem = failure("rap.splat.color_kernel", partial(_largest, device))
    if problem is not None:
        log.warn(f"colours of views are evaluated by plain torch operations: {problem}")
    return problem


def _largest(device: torch.device, kernel: ModuleType) -> None:
    """The kernel at its largest: degree 3, with features."""
    blob = torch.zeros(1, 6 * NUM_FEATURES, device=device)
    light = Appearance(
        blob[:, :1], blob[:, :NUM_FEATURES], blob[:, :1], blob, identity_exposure(1, blob)
    )
    one = Gaussians(
        blob[:, :3], blob[:, :4] + 1, blob[:, :3], blob[:, 0], blob[:, :48].view(1, 16, 3),
        appearance=light,
    )  # fmt: skip
    kernel.fused_colors(one, blob[:, :3], light.codes, 3)


def _needs_gradients(
    gaussians: Gaussians,
    camera_from_world: Float[Tensor, "v 4 4"],
    codes: Float[Tensor, "v c"] | None,
) -> bool:
    """Whether anything must flow back through the colours; the kernel has no backward pass."""
    inputs = [gaussians.means, gaussians.sh, camera_from_world]
    if codes is not None and gaussians.appearance is not None:
        light = gaussians.appearance
        inputs += [codes, light.features, light.hidden, light.output]
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
