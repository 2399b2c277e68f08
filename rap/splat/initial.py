"""Where a fit starts: its input checked, Gaussians at the points, and their optimiser."""

from math import sqrt

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from rap import geometry
from rap.camera import Camera
from rap.config import FitConfig
from rap.scene import Points
from rap.splat import density, harmonics, light
from rap.splat.gaussians import Gaussians
from rap.splat.order import morton_order

MIN_PHOTOGRAPHS = 2
_NEIGHBOURS = 3
_MIN_SCALE_M = 1e-7
_INITIAL_SCALE = {"mcmc": 0.5, "classic": 1.0}
"""Of the distance to the neighbours. Half the footprints of 3DGS are half the cost, and sharper;
the classic strategy has no noise that would close the gaps between them."""
_INITIAL_OPACITY = {"mcmc": 0.5, "classic": 0.1}
_MIN_EXTENT_M = 0.1
_REST_LR = 1 / 20
_CURVES = ((0.0, 0.0, 0.0), (0.6, 0.3, -0.4), (-0.5, 0.7, 0.2))
"""How the points are turned before each curve is laid through them."""
_CURVE_STEPS = 8
_ROWS = 1 << 14
"""Points compared at once: their neighbours would outweigh all else that a fit holds."""


class FitError(ValueError):
    """Photographs, poses or points that no splat can be fitted to; the message says why."""


def check(
    images: UInt8[Tensor, "n 3 h w"], poses: Float[Tensor, "n 4 4"], camera: Camera, points: Points
) -> None:
    """Refuse photographs, poses and points that no splat can be fitted to."""
    if len(images) < MIN_PHOTOGRAPHS:
        raise FitError(
            f"{len(images)} photograph(s); a fit needs at least {MIN_PHOTOGRAPHS} from different"
            " places"
        )
    size = (images.shape[3], images.shape[2])
    if size != (camera.width, camera.height):
        raise FitError(
            f"photographs of {size[0]}x{size[1]} pixels do not belong to a camera of"
            f" {camera.width}x{camera.height}"
        )
    if len(points.xyz) < 2:
        raise FitError(f"{len(points.xyz)} initial point(s); a fit needs at least 2")
    for name, values in (("poses", poses), ("initial points", points.xyz)):
        bad = (~values.isfinite().flatten(1).all(1)).nonzero()
        if len(bad):
            raise FitError(f"{len(bad)} of the {name} are not finite, the first is {int(bad[0])}")


def scene_extent_m(poses: Float[Tensor, "n 4 4"]) -> float:
    """Size of the scene, to which the steps of the means are relative.

    1.1 times the largest distance of a camera from the mean one, as in 3DGS.
    """
    centres = poses[:, :3, 3].double()
    distances = torch.linalg.vector_norm(centres - centres.mean(0), dim=1)
    return max(1.1 * float(distances.max()), _MIN_EXTENT_M)


def scene_size_m(poses: Float[Tensor, "n 4 4"], points: Points) -> float:
    """Size of what is seen: the cameras' extent, or the median distance of the points from them.

    3DGS takes the first, which is tiny where cameras in the middle of a room look outwards.
    """
    centre = poses[:, :3, 3].double().mean(0)
    distances = torch.linalg.vector_norm(points.xyz.double() - centre, dim=1)
    return max(scene_extent_m(poses), float(distances.median()))


def initial_parameters(
    points: Points, extent_m: float, config: FitConfig, generator: torch.Generator
) -> density.Parameters:
    """Round, half transparent Gaussians of the points' colours."""
    device = generator.device
    limit = min(config.initial_points + config.depth_points, config.max_gaussians)
    chosen = torch.randperm(len(points.xyz), generator=generator, device=device)[:limit].cpu()
    means = points.xyz[chosen].to(device)
    rgb = points.rgb[chosen].to(device).float() / 255
    num = len(means)
    scales = (_INITIAL_SCALE[config.strategy] * neighbour_distance(means)).clamp(min=_MIN_SCALE_M)
    opacity = _INITIAL_OPACITY[config.strategy]
    num_rest = (config.sh_degree + 1) ** 2 - 1
    values = {
        "means": means,
        "quats": torch.randn(num, 4, generator=generator, device=device),
        "log_scales": scales.log()[:, None].repeat(1, 3),
        "opacity_logits": torch.full((num,), opacity, device=device).logit(),
        "sh_base": ((rgb - 0.5) / harmonics.BASE)[:, None],
        "sh_rest": torch.zeros(num, num_rest, 3, device=device),
    }
    if config.appearance_dim:
        values["features"] = light.initial_features(means, extent_m, generator)
    return {name: nn.Parameter(value) for name, value in values.items()}


def adam(parameters: density.Parameters, lit: light.Light, config: FitConfig) -> torch.optim.Adam:
    """One group per parameter, the means first; their learning rate is set at every step.

    With b images in a step the rates grow by √b and the moments forget b times faster (Malladi et
    al., "On the SDEs and scaling rules for adaptive gradient algorithms", NeurIPS 2022), so that a
    step does about what b steps of one image do.
    """
    num, factor = config.images_per_step, sqrt(config.images_per_step)
    rates = {
        "means": config.means_lr,
        "quats": config.quats_lr,
        "log_scales": config.scales_lr,
        "opacity_logits": config.opacities_lr,
        "sh_base": config.sh_lr,
        "sh_rest": config.sh_lr * _REST_LR,
    } | light.learning_rates(config)
    groups = [
        {"name": name, "params": [parameter], "lr": factor * rates[name]}
        for name, parameter in (parameters | lit).items()
    ]
    betas = (max(1 - num * 0.1, 0.0), max(1 - num * 0.001, 0.0))
    return torch.optim.Adam(groups, betas=betas, eps=1e-15, fused=True)


def assemble(parameters: density.Parameters, lit: light.Light, config: FitConfig) -> Gaussians:
    """The Gaussians, with their appearance if it is fitted."""
    return Gaussians(
        means=parameters["means"],
        quats=parameters["quats"],
        log_scales=parameters["log_scales"],
        opacity_logits=parameters["opacity_logits"],
        sh=torch.cat([parameters["sh_base"], parameters["sh_rest"]], dim=1),
        antialiased=config.antialiased,
        appearance=light.appearance_of(lit, parameters["features"]) if lit else None,
    )


def neighbour_distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Mean distance to the three nearest other points, found along three space-filling curves.

    Among ever so many points a few of the nearest are missed, and the mean is a few per cent too
    large. Comparing all with all would take minutes on a CPU.
    """
    num = len(points)
    if num < 2:
        raise ValueError("a single point has no neighbours")
    steps = torch.arange(1, _CURVE_STEPS + 1, device=points.device)
    ranks = torch.arange(num, device=points.device)
    around = (ranks[:, None] + torch.cat([-steps, steps])) % num
    found = []
    for rotation in geometry.rotation_from_vector(points.new_tensor(_CURVES)):
        order = morton_order(points @ rotation)
        found.append(torch.empty_like(around).index_copy_(0, order, order[around]))
    means = []
    for rows in ranks.split(_ROWS):
        others = torch.cat([near[rows] for near in found], dim=1).sort(dim=1).values
        distances = torch.linalg.vector_norm(points[others] - points[rows, None], dim=2)
        distances.masked_fill_(others == rows[:, None], torch.inf)
        distances[:, 1:].masked_fill_(others[:, 1:] == others[:, :-1], torch.inf)
        nearest = min(_NEIGHBOURS, num - 1)
        means.append(distances.topk(nearest, largest=False).values.mean(1))
    return torch.cat(means)
