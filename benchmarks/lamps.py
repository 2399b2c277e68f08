"""What appearance is good for, in figures: `python -m benchmarks.lamps [psnr] [localise]`.

The room of `workloads.LAMPS_ROOM`: every frame has its own lamps, and those of the test frames lie
outside all that training saw. Two tables on stderr: held-out PSNR of splats fitted with and without
appearance (four fits), and errors of regressors trained on views that all have the mean appearance
or each a new one (two trainings a seed). Both arms of a comparison get the same splat, photographs,
steps and seeds. By default some ten minutes on one CPU core; `--large` wants a GPU.
"""

import argparse
import statistics
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

import rap
from benchmarks import workloads
from benchmarks.workloads import CPU_SCALE, LAMPS_ROOM, LAMPS_SEEDS
from rap import log
from rap.config import Config, FitConfig
from rap.data.images import decode
from rap.data.points import initial_points
from rap.data.room import RoomSpec, make
from rap.evaluate import load_run, pick_device, pose_errors, predict, summarise
from rap.scene import Scene, poses
from rap.splat.fit import fit
from rap.splat.gaussians import Gaussians
from rap.splat.relight import RelitScores, score_relit
from rap.train.loop import train

APPEARANCE_DIM = 8


@dataclass(frozen=True)
class Size:
    """How large pictures, splat and network are; lamps and poses are those of the workload."""

    unseen: RoomSpec
    alike: RoomSpec
    """Test frames with lamps drawn as the training frames' are."""
    fit: FitConfig
    training: Config


@dataclass(frozen=True)
class Errors:
    """Medians over the test frames."""

    translation_m: float
    rotation_deg: float


def small() -> Size:
    """The network of the accuracy benchmark, trained for a minute on fresh views alone.

    Without the photographs' own light, what differs between the arms is all the light there is.
    """
    config = workloads.accuracy_config(CPU_SCALE, LAMPS_SEEDS[0])
    config = replace(
        config, views=replace(config.views, per_image=4, refresh_epochs=1),
        weights=replace(config.weights, pose=0.0), train=replace(config.train, epochs=45),
    )  # fmt: skip
    splat = workloads.lamps_fit_config(APPEARANCE_DIM)
    return Size(LAMPS_ROOM, CPU_SCALE.room, splat, config)


def large() -> Size:
    """Pictures of 320x240 and the network of the `seven_scenes` preset, for a GPU."""
    config = rap.preset("seven_scenes")
    config = replace(
        config, train=replace(config.train, epochs=800, augment=0.0),
        views=replace(config.views, translation_m=0.5),
    )  # fmt: skip
    splat = FitConfig(
        iterations=4000, max_gaussians=60_000, initial_points=20_000, sh_degree=0,
        refine_every=50, appearance_dim=APPEARANCE_DIM, seed=workloads.SEED,
    )  # fmt: skip
    room_size = {"width": 320, "height": 240, "num_points": 20_000}
    alike = replace(CPU_SCALE.room, **room_size)
    return Size(replace(LAMPS_ROOM, **room_size), alike, splat, config)


@cache
def room(spec: RoomSpec) -> Scene:
    """The room in memory."""
    return make(spec)


@cache
def fitted(spec: RoomSpec, config: FitConfig, device: torch.device) -> Gaussians:
    """A splat of the training photographs."""
    scene = room(spec)
    camera = scene.camera.with_height(config.height or scene.camera.height)
    images = decode(scene.train, camera, num_workers=0)
    generator = torch.Generator().manual_seed(config.seed)
    points = initial_points(scene, config.initial_points, generator)
    return fit(images, poses(scene.train).float(), camera, points, config, device)


def held_out(spec: RoomSpec, config: FitConfig, device: torch.device) -> RelitScores:
    """PSNR of the test frames' right halves; see `rap.splat.relight`."""
    scene = room(spec)
    camera = scene.camera.with_height(config.height or scene.camera.height)
    images = decode(scene.test, camera, num_workers=0)
    return score_relit(fitted(spec, config, device), images, poses(scene.test), camera)


def localised(size: Size, seed: int, varied: bool, device: torch.device, out: Path) -> Errors:
    """Train in the room whose lamps vary; test on lamps never seen."""
    scene, gaussians = room(size.unseen), fitted(size.unseen, size.fit, device)
    config = trained_with(size.training, seed, varied)
    best = train(scene, gaussians, config, out, device)
    camera = scene.camera.with_height(config.image.height)
    images = decode(scene.test, camera, num_workers=0)
    predicted = predict(load_run(best, device).regressor, images, device)
    summary = summarise(pose_errors(predicted, poses(scene.test)))
    return Errors(summary.median_translation_m, summary.median_rotation_deg)


def trained_with(config: Config, seed: int, varied: bool) -> Config:
    """The same training with another seed, its views in new light or all in the mean light."""
    views = replace(config.views, appearance_scale=config.views.appearance_scale * varied)
    return replace(config, views=views, train=replace(config.train, seed=seed))


def _show_psnr(size: Size, device: torch.device) -> None:
    rows = []
    for name, spec in (("lamps drawn alike", size.alike), ("lamps never seen", size.unseen)):
        without = held_out(spec, replace(size.fit, appearance_dim=0), device)
        with_it = held_out(spec, size.fit, device)
        values = (without.mean, without.exposed, with_it.mean, with_it.exposed, with_it.relit)
        rows.append([name, *(f"{statistics.median(v.tolist()):.2f}" for v in values)])
        log.info("  ".join(rows[-1]))
    log.table(
        "Right halves of test frames, median PSNR in dB; light is read from the left halves",
        ["test frames", "without", "+ exposure", "with: mean", "+ exposure", "+ code"],
        rows,
    )


def _show_localisation(size: Size, device: torch.device) -> None:
    rows: list[list[str]] = []
    found: dict[bool, list[Errors]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in LAMPS_SEEDS:
            rows.append([str(seed)])
            for varied, errors in found.items():
                out = Path(folder) / f"{seed}-{varied}"
                errors.append(localised(size, seed, varied, device, out))
                rows[-1] += [f"{errors[-1].translation_m:.3f}", f"{errors[-1].rotation_deg:.2f}"]
            log.info("  ".join(rows[-1]))
    off, on = (
        [statistics.fmean(values) for values in zip(*map(_numbers, errors), strict=True)]
        for errors in found.values()
    )
    gain = [f"{1 - new / old:.0%}" for old, new in zip(off, on, strict=True)]
    rows.append(["better by", "", "", *gain])
    log.table(
        f"Lamps never seen, median errors; train.augment = {size.training.train.augment:g}",
        ["seed", "mean light: m", "degrees", "new light: m", "degrees"],
        rows,
    )


def _numbers(errors: Errors) -> tuple[float, float]:
    return errors.translation_m, errors.rotation_deg


def main() -> None:
    """Print the tables that are asked for; none named: both."""
    parser = argparse.ArgumentParser(description="What appearance is good for, in figures.")
    parser.add_argument("tables", nargs="*", help="psnr, localise; none: both")
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    parser.add_argument("--large", action="store_true", help="320x240 pictures, a full network")
    parser.add_argument("--augment", type=float, default=0.0, help="train.augment of both arms")
    arguments = parser.parse_args()
    unknown = set(arguments.tables) - {"psnr", "localise"}
    if unknown:
        parser.error(f"unknown table {min(unknown)!r}; accepted: psnr, localise")
    device = pick_device(arguments.device)
    size = large() if arguments.large else small()
    changed = replace(size.training.train, augment=arguments.augment)
    size = replace(size, training=replace(size.training, train=changed))
    wanted = arguments.tables or ["psnr", "localise"]
    if "psnr" in wanted:
        _show_psnr(size, device)
    if "localise" in wanted:
        _show_localisation(size, device)


if __name__ == "__main__":
    main()
