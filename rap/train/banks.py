"""From a scene to the image banks of a run: decode, hold out, render, synthesise."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from rap import log
from rap.camera import Camera
from rap.config import Config, ConfigError
from rap.data.images import ImageBank, decode
from rap.scene import Frame, Scene, poses
from rap.splat.gaussians import Gaussians
from rap.splat.memory import in_batches
from rap.synthesis.drawing import (
    Shots,
    check_drawn_height,
    draw_images,
    prepared,
    views_at_once,
)
from rap.synthesis.filter import load_brisque
from rap.synthesis.stream import ViewStream
from rap.synthesis.views import (
    Anchors,
    RefreshStats,
    anchors_of,
    refresh_views,
    scaled_reach,
)
from rap.train.batches import Banks, Batch, epoch_generator, epoch_seed
from rap.train.distributed import current
from rap.train.schedule import view_reach
from rap.train.step import needs_features


@dataclass(frozen=True)
class Material:
    """Everything a run reads: banks to train on, held-out photographs, and how to draw views."""

    banks: Banks
    held_out_images: UInt8[Tensor, "v 3 h w"]
    held_out_poses: Float[Tensor, "v 4 4"]
    camera: Camera
    source: str
    gaussians: Gaussians | None
    anchors: Anchors
    stream: ViewStream | None = None
    """Redraws views beside the steps, where the settings ask for it."""


def held_out_mask(num: int, fraction: float, block: int = 0) -> list[bool]:
    """Which training photographs validate: contiguous blocks, evenly spread.

    Neighbouring video frames are near duplicates, so single held-out frames would be scored by
    memory; the block's inner frames have no twin in training. Blocks are of about `block`
    photographs; 0 leaves their size to the number held out.
    """
    num_held = round(num * fraction)
    if num_held == 0:
        return [False] * num
    if block:
        num_blocks = min(num_held, max(1, round(num_held / block)))
    else:
        num_blocks = min(max(1, num_held // 8), 5) if num_held >= 8 else min(3, num_held)
    mask = [False] * num
    for index_of_block in range(num_blocks):
        size = num_held // num_blocks + (index_of_block < num_held % num_blocks)
        start = round((index_of_block + 0.5) * num / num_blocks - size / 2)
        for index in range(max(0, start), min(num, start + size)):
            mask[index] = True
    return mask


def prepare(
    scene: Scene, gaussians: Gaussians | None, config: Config, device: torch.device
) -> Material:
    """Decode the photographs, split off validation, and allocate the banks; views come later."""
    _check_views(gaussians, config)
    camera = scene.camera.with_height(config.image.height)
    images = decode(scene.train, camera, config.image.num_workers, config.image.cache_dir)
    train = config.train
    mask = torch.tensor(
        held_out_mask(len(scene.train), train.validation_fraction, train.validation_block)
    )
    all_poses = poses(scene.train).float()
    train_images, train_poses = images[~mask], all_poses[~mask]
    photographs = _bank(train_images, train_poses, config, device)
    train_poses = train_poses.to(device)
    shots = Shots(train_poses)
    if gaussians is not None:
        gaussians = prepared(gaussians.to(device), train_poses[:, :3, 3].mean(0), config.views)
        gaussians, shots = _known_light(gaussians, train_poses, mask)
    rendered = views = None
    if config.weights.rendered or needs_features(config.weights):
        assert gaussians is not None
        rendered = _bank(_render_all(gaussians, camera, shots, config), train_poses.cpu(),
                         config, device)  # fmt: skip
        current().gather_bank(rendered)
    if config.weights.view:
        num = len(train_poses) * config.views.per_image
        empty = torch.zeros(num, 3, camera.height, camera.width, dtype=torch.uint8)
        views = _bank(empty, torch.zeros(num, 4, 4), config, device)
    anchors = anchors_of(train_poses, config.views.bounds_margin_m, shots.exposure)
    stream = None
    if views is not None and gaussians is not None and config.views.stream_per_step:
        stream = ViewStream(
            views, gaussians, camera, anchors, config.views,
            share=current().rows, gather=current().gather_bank,
        )  # fmt: skip
    return Material(
        banks=Banks(photographs, rendered, views),
        held_out_images=_bank(images[mask], all_poses[mask], config, device).images,
        held_out_poses=all_poses[mask],
        camera=camera,
        source=scene.source,
        gaussians=gaussians,
        anchors=anchors,
        stream=stream,
    )


def draw_views(material: Material, config: Config, epoch: int) -> RefreshStats | None:
    """Redraw all views for an epoch; the same epoch draws the same views in every run."""
    if material.banks.views is None or material.gaussians is None:
        return None
    bank, ranks = material.banks.views, current()
    device = material.anchors.world_from_camera.device
    generator = epoch_generator(config.train.seed, epoch, "views", device)
    views = scaled_reach(config.views, view_reach(config, epoch))
    stats = refresh_views(
        bank, material.gaussians, material.camera, material.anchors, views, generator,
        ranks.rows(bank.num, device),
    )  # fmt: skip
    ranks.gather_bank(bank)
    return ranks.total(stats)


def streamed(
    found: Iterator[Batch], material: Material, config: Config, epoch: int, num_steps: int
) -> Iterator[Batch]:
    """The batches of an epoch; after each step the stream of views advances, if there is one."""
    for step, batch in enumerate(found):
        yield batch
        _advance(material, config, epoch * num_steps + step, epoch)


def drawn_in(epoch: int, config: Config) -> int:
    """The epoch in which the views that `epoch` uses were drawn all at once."""
    every = config.views.refresh_epochs
    return 0 if config.views.stream_per_step else epoch - epoch % every


def restore_views(material: Material, config: Config, epochs_done: int, num_steps: int) -> None:
    """Bring the views to where they were after some epochs: what was drawn last, and in flight."""
    if epochs_done == 0:
        return
    total, stream = epochs_done * num_steps, material.stream
    last = total if stream is None else min(total, stream.num_steps)
    epoch = drawn_in(epochs_done, config)
    if epoch != epochs_done and (stream is None or last == total):
        draw_views(material, config, epoch)
    if stream is not None:
        for step in range(total - last, total):
            _advance(material, config, step, step // num_steps)
        stream.take_stats()


def _advance(material: Material, config: Config, step: int, epoch: int) -> None:
    if material.stream is not None:
        seed = epoch_seed(config.train.seed, step, "stream")
        material.stream.advance(step, seed, view_reach(config, epoch))


def fingerprint(material: Material, frames: Sequence[Frame], settings: str) -> str:
    """A hash of what must not change between a run and its resumption."""
    digest = hashlib.sha256(f"{settings}{material.camera}".encode())
    for frame in frames:
        digest.update(frame.name.encode())
        digest.update(frame.world_from_camera.numpy().tobytes())
    tensors = [material.banks.photographs.images, material.held_out_images]
    if material.gaussians is not None:
        g = material.gaussians
        digest.update(bytes([g.antialiased]))
        tensors += [g.means, g.quats, g.log_scales, g.opacity_logits, g.sh]
        if g.appearance is not None:
            light = g.appearance
            tensors += [light.codes, light.features, light.hidden, light.output, light.exposure]
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_views(gaussians: Gaussians | None, config: Config) -> None:
    wanted = [name for name in ("rendered", "view", "feature", "adversarial")
              if getattr(config.weights, name)]  # fmt: skip
    if wanted and gaussians is None:
        raise ConfigError(
            f"the terms {', '.join(wanted)} need renderings: give a splat (--splat FILE), or set "
            "their weights to 0 to train on photographs alone"
        )
    check_drawn_height(config.views, config.image.height, "image.height")
    if config.weights.view and config.views.per_image < 1:
        raise ConfigError(
            f"views.per_image = {config.views.per_image} but weights.view = {config.weights.view}; "
            "accepted: at least one view per image, or weights.view = 0"
        )
    if config.weights.view and config.views.max_brisque:
        # where its parameters are missing that is said now, not when views are first drawn
        load_brisque()


def _bank(
    images: UInt8[Tensor, "n 3 h w"],
    world_from_camera: Float[Tensor, "n 4 4"],
    config: Config,
    device: torch.device,
) -> ImageBank:
    budget = int(config.image.device_budget_gib * 2**30)
    return ImageBank(images, world_from_camera, device, budget, config.image.pin_memory)


def _known_light(
    gaussians: Gaussians, train_poses: Float[Tensor, "n 4 4"], held_out: Bool[Tensor, "m"]
) -> tuple[Gaussians, Shots]:
    """Gaussians without the light of held-out photographs, and shots of the others in their own.

    A splat may have been fitted to all photographs or to those not held out. One that was fitted to
    another number keeps all its light, of which nobody knows whose it is: the photographs are
    shown in the mean appearance then.
    """
    light = gaussians.appearance
    if light is None:
        return gaussians, Shots(train_poses)
    if light.num_images not in (len(held_out), len(train_poses)):
        log.warn(
            f"the splat knows the light of {light.num_images} photographs, but the scene has "
            f"{len(held_out)} to train on: their renderings show the mean light, and new light "
            "may mix that of held-out ones; fit the splat to this scene"
        )
        return gaussians, Shots(train_poses)
    if light.num_images == len(held_out):
        kept = (~held_out).to(train_poses.device)
        light = replace(light, codes=light.codes[kept], exposure=light.exposure[kept])
    codes = light.codes if light.num_codes else None
    return replace(gaussians, appearance=light), Shots(train_poses, codes, light.exposure)


def _render_all(
    gaussians: Gaussians, camera: Camera, shots: Shots, config: Config
) -> UInt8[Tensor, "n 3 h w"]:
    """The renderings of the photographs; zeros where another rank draws."""
    num = len(shots.world_from_camera)
    images = torch.zeros(num, 3, camera.height, camera.width, dtype=torch.uint8)
    device = shots.world_from_camera.device
    own = current().rows(num, device)
    rows = torch.arange(num, device=device) if own is None else own

    def draw(part: slice) -> None:
        drawn = draw_images(gaussians, camera, shots.part(rows[part]), config.views)[0]
        images[rows[part].cpu()] = drawn.cpu()

    in_batches(len(rows), views_at_once(gaussians, camera, config.views), draw)
    return images
