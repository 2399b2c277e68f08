"""Random view synthesis: draw poses and light, render in batches, keep the good ones in the bank.

What a view shows depends on the generator's seed, the attempt and the view's row alone: not on how
many views a call holds, nor on which rows are drawn, so that several GPUs can draw a share each.
"""

from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rap.camera import Camera
from rap.config import ViewsConfig
from rap.data.images import ImageBank
from rap.splat.gaussians import Gaussians
from rap.splat.memory import in_batches
from rap.synthesis.appearances import draw_appearances
from rap.synthesis.drawing import Shots, draw_images, views_at_once
from rap.synthesis.filter import BrisqueModel, brisque, load_brisque, shortfalls
from rap.synthesis.sampling import sample_poses


@dataclass(frozen=True)
class Anchors:
    """Where views may lie: the poses to start from and the box that they must stay in."""

    world_from_camera: Float[Tensor, "n 4 4"]
    low: Float[Tensor, "3"]
    high: Float[Tensor, "3"]
    exposure: Float[Tensor, "n 3 4"] | None = None
    """Of the photographs at these poses, where the splat knows them."""

    def at(self, rows: Int64[Tensor, "k"]) -> "Anchors":
        """Some of the anchors, in the same box."""
        exposure = None if self.exposure is None else self.exposure[rows]
        return Anchors(self.world_from_camera[rows], self.low, self.high, exposure)


@dataclass(frozen=True)
class RefreshStats:
    """What one refresh cost."""

    num_views: int
    num_renders: int
    num_below_filter: int
    """Views kept although no attempt passed the filter."""
    num_attempts: int
    """Rounds in which rejected views were drawn again, the first included."""
    num_low_coverage: int = 0
    """Renders that the filter rejected for their coverage."""
    num_high_brisque: int = 0
    """Renders that it rejected for their BRISQUE score; some of them for both."""

    @property
    def acceptance(self) -> float:
        """Share of the renders that passed the filter."""
        return (self.num_views - self.num_below_filter) / max(1, self.num_renders)

    def beside(self, other: "RefreshStats") -> "RefreshStats":
        """What both cost; the rounds are the most that one of them took."""
        sums = {name: value + getattr(other, name) for name, value in vars(self).items()}
        rounds = max(self.num_attempts, other.num_attempts)
        return RefreshStats(**sums | {"num_attempts": rounds})


def anchors_of(
    world_from_camera: Float[Tensor, "n 4 4"],
    margin_m: float,
    exposure: Float[Tensor, "n 3 4"] | None = None,
) -> Anchors:
    """Anchors at the training poses, bounded by their centres' box widened by a margin."""
    centre = world_from_camera[:, :3, 3]
    low, high = centre.amin(0) - margin_m, centre.amax(0) + margin_m
    return Anchors(world_from_camera, low, high, exposure)


def scaled_reach(config: ViewsConfig, factor: float) -> ViewsConfig:
    """Settings for views that lie and turn that much farther from their anchors."""
    if factor == 1:
        return config
    return replace(
        config, translation_m=config.translation_m * factor,
        rotation_deg=min(180.0, config.rotation_deg * factor),
    )  # fmt: skip


def share(num: int, rank: int, world: int, device: torch.device) -> Int64[Tensor, "k"]:
    """The rows that one of `world` processes draws: every row of `num` falls to exactly one."""
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} must be in [0, {world - 1}]")
    return torch.arange(rank, num, world, device=device)


def draw_shots(
    gaussians: Gaussians,
    near: Float[Tensor, "n 4 4"],
    anchors: Anchors,
    config: ViewsConfig,
    generator: torch.Generator,
) -> Shots:
    """A new pose near each given one and, where the splat knows of light, a new light for each.

    A splat that knows exposures alone shows a view in that of its anchor, whatever the scale of the
    light above 0 (at which all are mean): a camera sets it by what it sees. `near` are the anchors,
    each as often in a row as there are views of it.
    """
    poses = sample_poses(
        near, translation_m=config.translation_m, rotation_deg=config.rotation_deg,
        low=anchors.low, high=anchors.high, generator=generator,
    )  # fmt: skip
    if gaussians.appearance is None:
        return Shots(poses)
    if gaussians.appearance.num_codes == 0:
        if anchors.exposure is None or config.appearance_scale == 0:
            return Shots(poses)
        per_anchor = len(near) // len(anchors.exposure)
        return Shots(poses, None, anchors.exposure.repeat_interleave(per_anchor, dim=0))
    light = draw_appearances(gaussians.appearance, len(poses), config, generator)
    return Shots(poses, light.codes, light.exposure)


@torch.no_grad()
def refresh_views(
    bank: ImageBank,
    gaussians: Gaussians,
    camera: Camera,
    anchors: Anchors,
    config: ViewsConfig,
    generator: torch.Generator,
    rows: Int64[Tensor, "k"] | None = None,
) -> RefreshStats:
    """Redraw the bank's views, as many for each anchor, in anchor order; or some rows of it only.

    A view that the filter rejects is drawn again; after `max_attempts` the best attempt stays and
    is counted. Everything happens on the device; the host waits once per attempt, for the number
    of rejects and what they were rejected for, besides what gsplat waits for.
    `gaussians` may be `drawing.prepared`.
    """
    device = anchors.world_from_camera.device
    per_anchor = bank.num // len(anchors.world_from_camera)
    near = anchors.world_from_camera.repeat_interleave(per_anchor, dim=0)
    pending = torch.arange(bank.num, device=device) if rows is None else rows.to(device)
    num_views, num_renders, attempts = len(pending), 0, 0
    low = high = 0
    worst = torch.full((bank.num,), torch.inf, device=device)
    missed = torch.zeros(2, bank.num, dtype=torch.bool, device=device)
    num_missed = torch.zeros(2, dtype=torch.int64, device=device)
    model = _brisque_model(device) if config.max_brisque else None
    size = views_at_once(gaussians, camera, config)
    while attempts < config.max_attempts and len(pending):
        shots = draw_shots(gaussians, near, anchors, config, generator)
        work = partial(
            _draw_rows, bank, gaussians, camera, config, model, shots, pending, worst,
            missed, first=attempts == 0,
        )  # fmt: skip
        size = in_batches(len(pending), size, work)
        num_renders += len(pending)
        attempts += 1
        num_missed += missed[:, pending].sum(dim=1)
        rejected = worst[pending] > 0
        num_left, low, high = torch.cat([rejected.sum()[None], num_missed]).tolist()
        # The rejects, in their order; choosing them by a mask would be another wait.
        pending = pending[rejected.byte().argsort(descending=True, stable=True)[:num_left]]
    return RefreshStats(num_views, num_renders, len(pending), attempts, low, high)


@cache
def _brisque_model(device: torch.device) -> BrisqueModel:
    return load_brisque().to(device)


def _draw_rows(
    bank: ImageBank,
    gaussians: Gaussians,
    camera: Camera,
    config: ViewsConfig,
    model: BrisqueModel | None,
    shots: Shots,
    pending: Int64[Tensor, "k"],
    worst: Float[Tensor, "n"],
    missed: Bool[Tensor, "2 n"],
    part: slice,
    first: bool,
) -> None:
    """Draw some of the pending rows and keep each where it is better than what the bank holds.

    `worst` is how far the bank's views miss the filter, `missed` which of its limits the drawn ones
    miss. Repeatable: a second call changes nothing.
    """
    rows = pending[part]
    chosen = shots.part(rows)
    images, coverage = draw_images(gaussians, camera, chosen, config)
    scores = None if model is None else brisque(images / 255, model)
    short = shortfalls(coverage, scores, config)
    missed[:, rows] = short > 0
    missing = short.sum(dim=0)
    better = None if first else missing < worst[rows]
    bank.write(rows, images, chosen.world_from_camera, where=better)
    worst[rows] = missing if better is None else torch.where(better, missing, worst[rows])
