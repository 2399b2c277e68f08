"""One step of training, of fitting, of view synthesis and of inference: the functions they run."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import torch

from rap.camera import Camera
from rap.config import Config, ConfigError, LossWeights, Precision
from rap.config.inference import InferExecution
from rap.data.images import decode
from rap.data.points import initial_points
from rap.evaluate import Localizer
from rap.model.checkpoint import Checkpoint
from rap.model.regressor import build_regressor
from rap.profiling.window import Job, Part
from rap.scene import Frame, Scene, poses
from rap.splat import fit
from rap.splat.gaussians import Gaussians
from rap.splat.objective import Targets
from rap.synthesis.augment import augmented
from rap.train.banks import Material, draw_views, prepare, streamed
from rap.train.batches import Batch, batches, epoch_generator, epoch_indices
from rap.train.checks import check_settings
from rap.train.execution import Runner
from rap.train.loop import new_learner
from rap.train.step import needs_photographs

MAX_FRAMES = {"cpu": 16, "cuda": 64}
"""Of a scene, evenly spread: a profile takes seconds, however long somebody filmed."""


def train_job(
    scene: Scene, gaussians: Gaussians | None, config: Config, device: torch.device
) -> Job:
    """One training step: its batch, augmented, then the optimisation as `train.execution` says.

    Views are drawn once before; where they come as a stream, it advances while a batch is fetched.
    """
    return training_job(training_material(scene, gaussians, config, device), config, device)


def training_material(
    scene: Scene, gaussians: Gaussians | None, config: Config, device: torch.device
) -> Material:
    """What steps of any batch size read: photographs, renderings, and views drawn once.

    Raises ConfigError, before any image is read, for settings that no training takes, and for
    those under which later epochs have other steps than the one that is profiled.
    """
    _check_step(config)
    check_settings(config, len(scene.train), device)
    material = _material(scene, gaussians, config, device)
    draw_views(material, config, epoch=0)
    return material


def _check_step(config: Config) -> None:
    plain = {"freeze_after": 1.0, "cached_features": False, "low_resolution_share": 0.0}
    for name, accepted in plain.items():
        if (value := getattr(config.train, name)) != accepted:
            raise ConfigError(
                f"train.{name} = {value!r} has no effect on the step that is profiled, which "
                f"trains the whole network on images of image.height; accepted: {accepted!r}"
            )


def training_job(material: Material, config: Config, device: torch.device) -> Job:
    """A step of a fresh learner on what was prepared, in batches of `train.batch_size`."""
    runner = Runner(new_learner(material, config, device), config, device)
    stream = _endless_batches(material, config)
    current: list[Batch] = [next(stream)]
    generator = epoch_generator(config.train.seed, 0, "augment", device)

    def fetch() -> None:
        current[0] = next(stream)

    def augment() -> None:
        batch = current[0]
        current[0] = replace(batch, images=augmented(batch.images, config.train, generator))

    def update() -> None:
        runner(current[0], 1.0)

    images = len(current[0].images)
    what = f"training step of {material.source}, {images} images, {config.train.precision}"
    parts = (Part("batch", fetch, is_input=True), Part("augment", augment), Part("step", update))
    asked = config.train.execution
    return Job(what, device, parts, images, "images", lambda: _way(runner.runs, asked, runner.why))


def _way(runs: str, asked: str, why: str) -> str:
    """What ran, and why it is not what was asked for."""
    return f"ran {runs}" if runs == asked else f"ran {runs}, asked was {asked}: {why}"


def fit_job(scene: Scene, config: Config, device: torch.device) -> Job:
    """One step of fitting Gaussians, from the beginning of a fit on."""
    camera = _fit_camera(scene, config)
    frames = thinned(scene.train, device)
    images = decode(frames, camera, config.image.num_workers, config.image.cache_dir)
    generator = torch.Generator().manual_seed(config.fit.seed)
    points = initial_points(scene, config.fit.initial_points, generator)
    targets = Targets(images, None, None)
    course, state = fit.begin(targets, poses(frames).float(), camera, points, config.fit, device)

    def step() -> None:
        # A profile longer than the fit goes round its beginning again.
        state.iteration %= len(course.order)
        fit.step(state, course)

    what = (
        f"fitting step of {scene.source}, {len(points.xyz):,} Gaussians at first, "
        f"{camera.width}x{camera.height}"
    )
    return Job(what, device, (Part("step", step),), config.fit.images_per_step, "images")


def views_job(
    scene: Scene, gaussians: Gaussians | None, config: Config, device: torch.device
) -> Job:
    """One refresh of all views of at most MAX_FRAMES photographs: sampled, drawn, filtered.

    All at once, also where a training would redraw them beside its steps.
    """
    # Terms decide what a training holds beside the views; a refresh touches none of that.
    views = replace(config.views, stream_per_step=0)
    config = replace(config, weights=LossWeights(pose=0.0, view=1.0), views=views)
    material = _material(scene, gaussians, config, device)
    assert material.banks.views is not None
    epochs, num = count(), material.banks.views.num
    part = Part("refresh", lambda: draw_views(material, config, next(epochs)))
    what = f"refresh of {num} views of {scene.source}"
    return Job(what, device, (part,), num, "views")


def infer_job(
    scene: Scene,
    checkpoint: Checkpoint | None,
    config: Config,
    device: torch.device,
    batch_size: int = 1,
    precision: Precision = "fp32",
    execution: InferExecution = "eager",
) -> Job:
    """Photographs in host memory to poses there; fresh weights do as well as trained ones."""
    camera = scene.camera.with_height(config.image.height)
    regressor = build_regressor(config.model, config.train.seed).to(device)
    if checkpoint is not None:
        camera, regressor = checkpoint.camera, checkpoint.regressor
    locate = Localizer(regressor, camera, precision, batch_size, execution)
    images = decode(thinned(scene.test or scene.train, device), camera, num_workers=0)
    images = images[torch.arange(batch_size) % len(images)]
    what = f"{batch_size} photographs of {scene.source} to poses, {precision}"
    part = Part("localize", lambda: locate(images).cpu())
    return Job(
        what, device, (part,), batch_size, "images",
        lambda: _way(locate.runs, execution, locate.why),
    )  # fmt: skip


def thinned(frames: tuple[Frame, ...], device: torch.device) -> tuple[Frame, ...]:
    """At most MAX_FRAMES, evenly spread."""
    kept = min(MAX_FRAMES[device.type], len(frames))
    return tuple(frames[index * len(frames) // kept] for index in range(kept))


def unfitted(scene: Scene, config: Config, device: torch.device) -> Gaussians:
    """Gaussians after one step of a fit: work like that of fitted ones, no likeness."""
    camera, frames = _fit_camera(scene, config), thinned(scene.train, device)
    images = decode(frames, camera, config.image.num_workers, config.image.cache_dir)
    generator = torch.Generator().manual_seed(config.fit.seed)
    points = initial_points(scene, config.fit.initial_points, generator)
    once = replace(config.fit, iterations=1, appearance_dim=0)
    return fit.fit(images, poses(frames).float(), camera, points, once, device)


def _material(
    scene: Scene, gaussians: Gaussians | None, config: Config, device: torch.device
) -> Material:
    kept = replace(scene, train=thinned(scene.train, device))
    return prepare(kept, gaussians or unfitted(scene, config, device), config, device)


def _endless_batches(material: Material, config: Config) -> Iterator[Batch]:
    photographs = material.banks.photographs
    for epoch in count():
        indices = epoch_indices(photographs.num, config.train.batch_size, config.train.seed, epoch)
        found = batches(
            material.banks, indices, config.views.per_image, config.image.num_workers,
            needs_photographs(config.weights),
        )  # fmt: skip
        yield from streamed(found, material, config, epoch, len(indices))


def _fit_camera(scene: Scene, config: Config) -> Camera:
    height = config.fit.height
    return scene.camera if height is None else scene.camera.with_height(height)
