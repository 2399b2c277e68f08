"""Visual localisation: a pose regressor trained on random views of a Gaussian splat.

    import rap

    scene, config = rap.load("room"), rap.preset("room")
    gaussians = rap.fit(scene, config)
    best = rap.train(scene, gaussians, config, "run")
    print(rap.evaluate(scene, best).summary)

Nothing heavy is imported before a function is called.
"""

from collections.abc import Sequence
from pathlib import Path

# Two functions below have the names of these packages. A package becomes an attribute of rap when
# it is first imported: that happens here, so that the functions stay. `from rap.train.loop import
# train` and its like find the packages all the same.
import rap.evaluate
import rap.train
from rap.config import Config, Precision, preset

__all__ = ["Config", "evaluate", "fit", "load", "localize", "preset", "render", "train"]


def load(path: str | Path, format: str | None = None) -> "rap.scene.Scene":  # noqa: A002 (the word for it)
    """A scene from a folder, or the procedural room for the word "room".

    The format is recognised where none of `rap.data.FORMATS` is given. Raises DataError, naming the
    file, for a scene that cannot be used.
    """
    import rap.data

    return rap.data.load(path, format)


def fit(
    scene: "rap.scene.Scene",
    config: Config | None = None,
    device: str = "auto",
    *,
    saving: "rap.splat.state.Saving | None" = None,
) -> "rap.splat.gaussians.Gaussians":
    """Gaussians that look like a scene's training photographs; `device`: auto, cpu or cuda.

    With `saving` the fit can be looked at, and goes on after an interruption. Raises DataError for
    a scene without points and depth, FitError for one that memory cannot hold and for a fit that
    diverges.
    """
    import torch

    from rap.data.depths import decode_depths
    from rap.data.images import decode
    from rap.data.masks import decode_masks
    from rap.data.points import initial_points, with_depth_points
    from rap.evaluate import pick_device
    from rap.scene import poses
    from rap.splat.feasibility import check_scene
    from rap.splat.fit import fit

    config = config or Config()
    chosen = pick_device(device)
    camera = scene.camera
    if config.fit.height is not None:
        camera = camera.with_height(config.fit.height)
    check_scene(scene, camera, config.fit, chosen)
    generator = torch.Generator().manual_seed(config.fit.seed)
    points = initial_points(scene, config.fit.initial_points, generator)
    points = with_depth_points(scene, points, config.fit.depth_points, generator)
    workers = config.image.num_workers
    images = decode(scene.train, camera, workers, config.image.cache_dir)
    depths = decode_depths(scene.train, camera, workers) if config.fit.depth_weight else None
    masks = decode_masks(scene.train, camera, workers)
    world_from_camera = poses(scene.train).float()
    return fit(
        images, world_from_camera, camera, points, config.fit, chosen,
        depths=depths, masks=masks, saving=saving,
    )  # fmt: skip


def render(
    gaussians: "rap.splat.gaussians.Gaussians",
    camera: "rap.camera.Camera",
    world_from_camera: "rap.evaluate.inference.Poses",
    *,
    antialiased: bool | None = None,
    with_depth: bool = False,
) -> "rap.splat.render.Rendering":
    """Draw Gaussians at many poses in one call, differentiably; `antialiased` none: as fitted."""
    from rap.geometry import invert
    from rap.splat.render import render

    camera_from_world = invert(world_from_camera)
    return render(
        gaussians, camera, camera_from_world, antialiased=antialiased, with_depth=with_depth
    )


def train(
    scene: "rap.scene.Scene",
    gaussians: "rap.splat.gaussians.Gaussians | None",
    config: Config,
    out: str | Path,
    device: str = "auto",
    *,
    resume: bool = False,
) -> Path:
    """Train a regressor into the run directory `out`; returns the path of its best weights.

    Without Gaussians the terms that need renderings must have weight 0. Raises ConfigError for
    settings that do not fit together, TrainingError when the loss is not finite.
    """
    from rap.evaluate import pick_device
    from rap.train.loop import train

    return train(scene, gaussians, config, Path(out), pick_device(device), resume=resume)


def evaluate(
    scene: "rap.scene.Scene",
    run: str | Path,
    device: str = "auto",
    precision: Precision = "fp32",
) -> "rap.evaluate.report.Evaluation":
    """Score a run directory, or a file of weights, on the scene's test frames.

    Raises ScoreError for a score that would mean nothing, and CheckpointError or DataError for
    files that do not fit.
    """
    from rap.evaluate import evaluate, load_run, pick_device

    chosen = pick_device(device)
    return evaluate(scene, load_run(Path(run), chosen), chosen, precision=precision)


def localize(
    photos: Sequence[str | Path],
    run: str | Path,
    device: str = "auto",
    precision: Precision = "fp32",
) -> "rap.evaluate.inference.Poses":
    """`world_from_camera` of photographs, float64 `[n, 4, 4]`, OpenCV axes, metres.

    Raises DataError for a photograph that cannot be read or has another shape than the training's.
    """
    from rap.evaluate import load_run, localize, pick_device

    chosen = pick_device(device)
    checkpoint = load_run(Path(run), chosen)
    return localize(checkpoint, [Path(photo) for photo in photos], chosen, precision)
