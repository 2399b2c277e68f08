"""What appearance is good for, in figures: `python -m benchmarks.lamps -o FOLDER`.

The room of `workloads.LAMPS_ROOM`: every frame has its own lamps, and those of the test frames lie
outside all that training saw. Two tables on stderr: held-out PSNR of splats fitted with and without
appearance (four fits), and errors of regressors trained on views that all have the mean appearance
or each a new one (two trainings a seed). Both arms of a comparison get the same splat, photographs,
steps and seeds. By default half an hour on one CPU core; `--large` wants a GPU.

A training is a run directory `FOLDER/ARM/seed-K`, which the same command goes on with where it was
stopped; the table shows all that the folder holds. As only errors count, several processes can
share it: fit first (`--fit-only`), then give each its part of the trainings (`--shard 1/6`).
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch

import rap
from benchmarks import workloads
from benchmarks.trainings import ended, shard_of
from benchmarks.workloads import CPU_SCALE, LAMPS_ROOM, LAMPS_SEEDS
from rap import config as settings
from rap import log
from rap.config import Config, ConfigError, FitConfig
from rap.data.images import decode
from rap.data.points import initial_points
from rap.data.room import RoomSpec, make
from rap.evaluate import load_run, pick_device, pose_errors, predict, summarise
from rap.scene import Scene, poses
from rap.splat.fit import fit
from rap.splat.gaussians import Gaussians, load_ply, save_ply
from rap.splat.relight import RelitScores, score_relit
from rap.train.loop import train

APPEARANCE_DIM = 8
ARMS = {"mean-light": False, "new-light": True}
"""Folders of the trainings, and whether their views vary in light."""


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
    """The network of the accuracy benchmark, trained for some minutes on fresh views alone.

    Without the photographs' own light, what differs between the arms is all the light there is.
    """
    config = workloads.accuracy_config(CPU_SCALE, LAMPS_SEEDS[0])
    config = replace(
        config, views=replace(config.views, per_image=4, refresh_epochs=1),
        weights=replace(config.weights, pose=0.0), train=replace(config.train, epochs=150),
    )  # fmt: skip
    splat = workloads.lamps_fit_config(APPEARANCE_DIM)
    return Size(LAMPS_ROOM, CPU_SCALE.room, splat, config)


def large() -> Size:
    """Pictures of 320x240 and the network of the `seven_scenes` preset, for a GPU.

    Trained as `small` is, on fresh views alone, for as many steps (1,800), at half the height.
    """
    config = rap.preset("seven_scenes")
    config = replace(
        config, image=replace(config.image, height=120), weights=replace(config.weights, pose=0.0),
        train=replace(config.train, epochs=600, augment=0.0),
        views=replace(config.views, translation_m=0.5),
    )  # fmt: skip
    splat = FitConfig(
        iterations=2500, max_gaussians=60_000, initial_points=20_000, sh_degree=0,
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


def localised(
    size: Size, gaussians: Gaussians, seed: int, varied: bool, device: torch.device, out: Path
) -> Errors:
    """Train in the room whose lamps vary, or go on with it; test on lamps never seen.

    One that has ended is read. Raises ConfigError where `out` holds a run of other settings.
    """
    config = trained_with(size.training, seed, varied)
    scene, started = room(size.unseen), (out / "config.toml").exists()
    if started and settings.load(out / "config.toml") != config:
        raise ConfigError(f"{out}: the training has other settings now; name another folder")
    found = errors_in(out)
    if found is None:
        best = train(scene, gaussians, config, out, device, resume=started)
        camera = scene.camera.with_height(config.image.height)
        images = decode(scene.test, camera, num_workers=0)
        predicted = predict(load_run(best, device).regressor, images, device)
        summary = summarise(pose_errors(predicted, poses(scene.test)))
        found = Errors(summary.median_translation_m, summary.median_rotation_deg)
        with log.replacing(out / "errors.json") as temporary:
            temporary.write_text(json.dumps(asdict(found)), encoding="utf-8")
    return found


def errors_in(run: Path) -> Errors | None:
    """What a training came to; None where it has not ended."""
    path = run / "errors.json"
    return Errors(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


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


def splat_in(folder: Path, size: Size, device: torch.device) -> Gaussians:
    """The splat that all trainings of a folder share, fitted by whoever comes first.

    Raises ConfigError where it is of another room or was fitted by other settings.
    """
    path, about = folder / "splat.ply", folder / "splat.json"
    wanted = json.dumps({"room": asdict(size.unseen), "fit": asdict(size.fit)}, indent=1)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with log.replacing(about) as temporary:
            temporary.write_text(wanted, encoding="utf-8")
        save_ply(path, fitted(size.unseen, size.fit, device))
    elif not about.exists() or about.read_text(encoding="utf-8") != wanted:
        raise ConfigError(f"{path}: of another room or fitted otherwise; name another folder")
    return load_ply(path)


def show_localisation(folder: Path) -> None:
    """The trainings that have ended, seed by seed, and what new light gains over seeds with both.

    The gain is that of the means over seeds.
    """
    rows: list[list[str]] = []
    pairs: list[list[Errors]] = []
    for seed in LAMPS_SEEDS:
        found = [errors_in(folder / arm / f"seed-{seed}") for arm in ARMS]
        rows.append([str(seed), *(text for errors in found for text in _texts(errors))])
        if None not in found:
            pairs.append([errors for errors in found if errors is not None])
    if pairs:
        off, on = (
            [statistics.fmean(values) for values in zip(*map(_numbers, errors), strict=True)]
            for errors in zip(*pairs, strict=True)
        )
        gain = [f"{1 - new / old:.0%}" for old, new in zip(off, on, strict=True)]
        rows.append([f"better by, {len(pairs)} seeds", "", "", *gain])
    log.table(
        "Lamps never seen, median errors",
        ["seed", "mean light: m", "degrees", "new light: m", "degrees"],
        rows,
    )


def _texts(errors: Errors | None) -> list[str]:
    if errors is None:
        return ["-", "-"]
    return [f"{errors.translation_m:.3f}", f"{errors.rotation_deg:.2f}"]


def _numbers(errors: Errors) -> tuple[float, float]:
    return errors.translation_m, errors.rotation_deg


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables that are asked for; none named: both. 2 for what cannot be done."""
    parser = argparse.ArgumentParser(description="What appearance is good for, in figures.")
    parser.add_argument("tables", nargs="*", help="psnr, localise; none: both")
    parser.add_argument("-o", "--out", type=Path, help="folder of localise's splat and trainings")
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    parser.add_argument("--large", action="store_true", help="320x240 pictures, a full network")
    parser.add_argument("--augment", type=float, default=0.0, help="train.augment of both arms")
    parser.add_argument("--shard", default="1/1", help="train the i-th of n parts of the trainings")
    parser.add_argument("--fit-only", action="store_true", help="fit localise's splat and stop")
    arguments = parser.parse_args(argv)
    arguments.tables = arguments.tables or ["psnr", "localise"]
    unknown = set(arguments.tables) - {"psnr", "localise"}
    if unknown:
        parser.error(f"unknown table {min(unknown)!r}; accepted: psnr, localise")
    if "localise" in arguments.tables and arguments.out is None:
        parser.error("localise needs a folder: -o FOLDER")
    return ended("lamps", lambda: _main(arguments))


def _main(arguments: argparse.Namespace) -> None:
    device, folder = pick_device(arguments.device), arguments.out
    size = large() if arguments.large else small()
    changed = replace(size.training.train, augment=arguments.augment)
    size = replace(size, training=replace(size.training, train=changed))
    runs = [(seed, arm) for seed in LAMPS_SEEDS for arm in ARMS]
    share = shard_of(arguments.shard, len(runs))
    if "psnr" in arguments.tables:
        _show_psnr(size, device)
    if "localise" not in arguments.tables:
        return
    gaussians = splat_in(folder, size, device)
    for seed, arm in () if arguments.fit_only else (runs[index] for index in share):
        out = folder / arm / f"seed-{seed}"
        errors = localised(size, gaussians, seed, ARMS[arm], device, out)
        log.info(f"{arm}, seed {seed}: {'  '.join(_texts(errors))}")
    if not arguments.fit_only:
        show_localisation(folder)


if __name__ == "__main__":
    sys.exit(main())
