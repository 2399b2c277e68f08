"""The plain rasteriser: gsplat's picture and gradients in torch operations, on any device.

Instead of tiles it lists the (Gaussian, pixel) pairs that a view needs, sorts them by pixel and
then by depth, and blends each pixel's run. A *splat* here is one Gaussian in one view.

The rules are those of gsplat 1.5.3: alpha = min(0.999, opacity · exp(-σ)), skipped below 1/255; a
pixel ends before the splat that would bring its transmittance to 1e-4 or less; pixel centres lie
at +0.5; 0.3 px² are added to the projected covariance, and `antialiased` takes the area that this
adds off the opacity (Yu et al., "Mip-Splatting", CVPR 2024).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from rap import geometry
from rap.camera import Camera
from rap.splat.gaussians import Gaussians

NEAR_M = 0.01
BLUR_PX2 = 0.3
MIN_ALPHA = 1 / 255
MAX_ALPHA = 0.999
MIN_TRANSMITTANCE = 1e-4
_FRUSTUM_SLACK = 0.3
_MAX_DEVIATIONS = 3.33
_EDGE_PX = 1e-3
"""Footprints are listed this much too wide; the test on alpha decides at the edge."""


@dataclass(frozen=True, eq=False)
class _Splats:
    view: Int64[Tensor, " m"]
    gaussian: Int64[Tensor, " m"]
    depth: Float[Tensor, " m"]
    mean: Float[Tensor, "m 2"]
    conic: Float[Tensor, "m 3"]
    """Upper triangle of the inverse covariance: a, b, c of a·dx² + 2b·dx·dy + c·dy²."""
    opacity: Float[Tensor, " m"]
    variance_y: Float[Tensor, " m"]
    determinant: Float[Tensor, " m"]
    """Of the covariance; recomputed from the rounded conic it could come out negative."""


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Sorted by pixel, then by depth; a pixel is `(view · height + row) · width + column`."""

    splat: Int[Tensor, " p"]
    pixel: Int[Tensor, " p"]
    count: Int64[Tensor, " pixels"]
    """Pairs of every pixel."""
    start: Int64[Tensor, " pixels"]
    """Index of every pixel's first pair."""


def rasterize(
    gaussians: Gaussians,
    colors: Float[Tensor, "#v n 3"],
    camera: Camera,
    camera_from_world: Float[Tensor, "v 4 4"],
    antialiased: bool,
    probe: Float[Tensor, "v n 2"] | None = None,
    radius_clip_px: float = 0.0,
) -> Float[Tensor, "v {camera.height} {camera.width} 5"]:
    """Accumulated red, green, blue and depth, and alpha, over black; float32 or float64.

    Differentiable in all Gaussians, colours and poses, and in `probe`, which moves the projected
    means by pixels. Splats that reach no farther than `radius_clip_px` in x and in y are left out.
    Cost and memory grow with the covered pixels, about 100 ns and 100 bytes for each (Gaussian,
    pixel) pair on one CPU core.
    """
    num_views = len(camera_from_world)
    splats = _project(gaussians, camera, camera_from_world, antialiased)
    if probe is not None:
        splats = replace(splats, mean=splats.mean + probe[splats.view, splats.gaussian])
    with torch.no_grad():
        pairs = _list_pairs(splats, camera, num_views, radius_clip_px)
    colors = colors.expand(num_views, -1, -1)[splats.view, splats.gaussian]
    features = torch.cat(
        [colors, splats.depth[:, None], torch.ones_like(splats.depth)[:, None]], dim=1
    )
    alpha = _pair_alpha(splats, pairs, camera, num_views)
    picture = _Blend.apply(alpha, features, pairs)
    return picture.view(num_views, camera.height, camera.width, 5)


def _project(
    gaussians: Gaussians,
    camera: Camera,
    camera_from_world: Float[Tensor, "v 4 4"],
    antialiased: bool,
) -> _Splats:
    """Elliptical weighted average projection (Zwicker et al., "EWA splatting", 2001)."""
    means = geometry.transform(
        camera_from_world, gaussians.means.expand(len(camera_from_world), -1, -1)
    )
    view, gaussian = (means[..., 2].detach() >= NEAR_M).nonzero(as_tuple=True)
    mean = means[view, gaussian]
    depth = mean[:, 2]
    world_factor = geometry.rotation_from_quaternion(gaussians.quats) * gaussians.scales[:, None]
    factor = camera_from_world[view, :3, :3] @ world_factor[gaussian]
    slope_x = _limit(mean[:, 0] / depth, camera.cx, camera.width, camera.fx)
    slope_y = _limit(mean[:, 1] / depth, camera.cy, camera.height, camera.fy)
    # rows of the projected factor: covariance = rows @ rowsᵀ
    row_x = (factor[:, 0] - slope_x[:, None] * factor[:, 2]) * (camera.fx / depth)[:, None]
    row_y = (factor[:, 1] - slope_y[:, None] * factor[:, 2]) * (camera.fy / depth)[:, None]
    xx = (row_x * row_x).sum(1)
    xy = (row_x * row_y).sum(1)
    yy = (row_y * row_y).sum(1)
    # Lagrange's identity gives the determinant without cancellation
    sharp_area = torch.linalg.vector_norm(torch.linalg.cross(row_x, row_y), dim=1)
    determinant = sharp_area.square() + BLUR_PX2 * (xx + yy) + BLUR_PX2**2
    variance_y = yy + BLUR_PX2
    conic = torch.stack([variance_y, -xy, xx + BLUR_PX2], dim=1) / determinant[:, None]
    opacity = gaussians.opacities[gaussian]
    if antialiased:
        opacity = opacity * sharp_area / determinant.sqrt()
    centre = camera.project(mean)
    return _Splats(view, gaussian, depth, centre, conic, opacity, variance_y, determinant)


def _limit(
    slope: Float[Tensor, " m"], centre_px: float, size_px: int, focal_px: float
) -> Float[Tensor, " m"]:
    """Clamp x/z at 30 % of the half field of view beyond the image.

    Farther out the affine approximation of the projection blows up.
    """
    slack = _FRUSTUM_SLACK * 0.5 * size_px / focal_px
    low, high = -centre_px / focal_px - slack, (size_px - centre_px) / focal_px + slack
    return slope.clamp(low, high)


def _list_pairs(splats: _Splats, camera: Camera, num_views: int, radius_clip_px: float) -> _Pairs:
    """Every pixel centre inside the ellipse where a splat's alpha reaches 1/255."""
    nearest_first = torch.argsort(splats.depth, stable=True)
    if radius_clip_px:
        nearest_first = nearest_first[_reach_px(splats)[nearest_first] > radius_clip_px]
    splat, row, first, num = _row_spans(splats, nearest_first, camera)
    start = (splats.view[splat] * camera.height + row) * camera.width + first
    run = torch.repeat_interleave(num)
    offset = start - (num.cumsum(0) - num)
    pixel = offset.int().index_select(0, run)
    pixel += torch.arange(len(run), dtype=torch.int32, device=run.device)
    pixel, order = torch.sort(pixel, stable=True)
    count = torch.bincount(pixel, minlength=num_views * camera.height * camera.width)
    pair_splat = splat.int().index_select(0, run).index_select(0, order)
    return _Pairs(pair_splat, pixel, count, count.cumsum(0) - count)


def _reach_px(splats: _Splats) -> Float[Tensor, " m"]:
    """How far a splat reaches in x or in y, in whole pixels, as gsplat rounds it."""
    deviations = torch.sqrt(2 * torch.log((splats.opacity / MIN_ALPHA).clamp(min=1)))
    variance_x = splats.conic[:, 2] * splats.determinant
    widest = torch.maximum(variance_x, splats.variance_y).sqrt()
    return torch.ceil(deviations.clamp(max=_MAX_DEVIATIONS) * widest)


def _row_spans(
    splats: _Splats, order: Int64[Tensor, " m"], camera: Camera
) -> tuple[
    Int64[Tensor, " r"], Int64[Tensor, " r"], Int64[Tensor, " r"], Int64[Tensor, " r"]
]:  # fmt: skip
    """For every pixel row of every splat, in the given order: splat, row, first column, columns.

    Along a row the condition σ ≤ ln(255 · opacity) is quadratic in x.
    """
    x, y = splats.mean[order].double().unbind(1)
    a, b, _ = splats.conic[order].double().unbind(1)
    determinant = splats.determinant[order].double()
    limit = 2 * torch.log(splats.opacity[order].double() / MIN_ALPHA)
    half_height = torch.sqrt(limit.clamp(min=0) * splats.variance_y[order])
    top, num_rows = _between(y - half_height, y + half_height, camera.height)
    num_rows = torch.where(limit > 0, num_rows, 0)
    index = torch.repeat_interleave(num_rows)
    row = torch.arange(len(index), device=index.device)
    row += (top - (num_rows.cumsum(0) - num_rows))[index]
    dy = row + 0.5 - y[index]
    a = a[index]
    half_width = torch.sqrt((limit[index] * a - dy * dy / determinant[index]).clamp(min=0)) / a
    middle = x[index] - b[index] * dy / a
    first, num = _between(middle - half_width, middle + half_width, camera.width)
    return order[index], row, first, num


def _between(
    low: Float[Tensor, " m"], high: Float[Tensor, " m"], size: int
) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"]]:
    """First index and number of the pixel centres between two coordinates, inside the image."""
    first = torch.ceil(low - 0.5 - _EDGE_PX).clamp(0, size)
    last = torch.floor(high - 0.5 + _EDGE_PX).clamp(-1, size - 1)
    return first.long(), (last - first + 1).clamp(min=0).long()


def _pair_alpha(
    splats: _Splats, pairs: _Pairs, camera: Camera, num_views: int
) -> Float[Tensor, " p"]:
    like = {"device": splats.mean.device, "dtype": splats.mean.dtype}
    columns = torch.arange(camera.width, **like).repeat(num_views * camera.height) + 0.5
    rows = torch.arange(camera.height, **like).repeat_interleave(camera.width).repeat(num_views)
    values = torch.cat([splats.mean.T, splats.conic.T, splats.opacity[None]])
    # plain indexing: its backward is several times faster than index_select's on the CPU
    x, y, a, b, c, opacity = values[:, pairs.splat]
    dx = x - columns.repeat_interleave(pairs.count)
    dy = y - (rows + 0.5).repeat_interleave(pairs.count)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (opacity * torch.exp(-sigma)).clamp(max=MAX_ALPHA)
    return torch.where((sigma >= 0) & (alpha >= MIN_ALPHA), alpha, 0)


class _Blend(torch.autograd.Function):
    """Front-to-back blending of every pixel's run: picture = weights @ features.

    The weights, alpha · transmittance, are a sparse (pixel, splat) matrix, and embedding_bag is
    the one sparse product that torch has on every device without warnings. The backward is written
    out because that takes half the time and memory of autograd's.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        alpha: Float[Tensor, " p"],
        features: Float[Tensor, "m c"],
        pairs: _Pairs,
    ) -> Float[Tensor, "pixels c"]:
        transmittance = _transmittance(alpha, pairs)
        kept = transmittance * (1 - alpha) > MIN_TRANSMITTANCE
        weight = torch.where(kept, alpha * transmittance, 0)
        ctx.save_for_backward(
            alpha, features, transmittance, weight,
            pairs.splat, pairs.pixel, pairs.count, pairs.start,
        )  # fmt: skip
        return torch.nn.functional.embedding_bag(
            pairs.splat, features, pairs.start.int(), mode="sum", per_sample_weights=weight
        )

    @staticmethod
    def backward(
        ctx: torch.autograd.function.BackwardCFunction, *grad_outputs: Float[Tensor, "pixels c"]
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, "m c"], None]:
        alpha, features, transmittance, weight, *lists = list(ctx.saved_tensors)
        pairs = _Pairs(*lists)
        grad_weight = torch.zeros_like(alpha)
        grad_features = []
        # channel by channel: contiguous columns are faster than rows of five
        for grad, feature in zip(grad_outputs[0].T, features.T, strict=True):
            pair_grad = grad.contiguous().index_select(0, pairs.pixel)
            grad_weight.addcmul_(pair_grad, feature.contiguous().index_select(0, pairs.splat))
            grad_features.append(
                torch.bincount(pairs.splat, weights=weight * pair_grad, minlength=len(features))
            )
        # a splat's alpha brightens its own colour and dims everything behind it
        so_far = (weight * grad_weight).double().cumsum(0)
        ends = torch.cat([so_far.new_zeros(1), so_far])[pairs.start + pairs.count]
        behind = (ends.repeat_interleave(pairs.count) - so_far).to(alpha.dtype)
        grad_alpha = transmittance * grad_weight - behind / (1 - alpha)
        grad_alpha = torch.where(weight > 0, grad_alpha, 0)
        return grad_alpha, torch.stack(grad_features, dim=1).to(features.dtype), None


def _transmittance(alpha: Float[Tensor, " p"], pairs: _Pairs) -> Float[Tensor, " p"]:
    """Light that reaches each pair: the product of 1 - alpha before it in its pixel.

    One running sum of logarithms over all pixels, so it must be float64: in float32 the difference
    of two large sums would lose the picture.
    """
    log_passed = torch.log1p(-alpha).double()
    before = log_passed.cumsum(0) - log_passed
    base = torch.cat([before, before.new_zeros(1)])[pairs.start]
    return torch.exp((before - base.repeat_interleave(pairs.count)).to(alpha.dtype))
