"""Which schedule gets there: `python -m benchmarks.schedules SCENE -o FOLDER`.

Each row is a preset with named changes, trained on the training photographs without two blocks of
consecutive frames and scored on those; test frames are never read. The table on stderr says how
many seconds of training a row needs to each target, and where it ends. Its seconds are those of
the epochs, views included; validation, start, compiling in advance and recording of the network are
not: a probe of a few epochs runs before, and chooses the number of epochs that a row has time for.

Rows are run directories in FOLDER. The same command goes on where it was stopped, and the table
shows every finished row that it finds there. Several processes can share a folder: fit first
(`--fit-only`), then give each its rows (`--only`) or its part of them (`--shard 1/4`). Processes
that share a machine slow each other down: `--side-by-side` leaves times out, and `--epochs` gives
all rows as much training.
"""

import argparse
import json
import statistics
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import rap
from rap import config as settings
from rap import log
from rap.config import Config, ConfigError
from rap.evaluate import pick_device
from rap.scene import DataError, Scene
from rap.splat.gaussians import Gaussians, load_ply, save_ply
from rap.train.banks import held_out_mask
from rap.train.loop import train

TARGETS = ((0.10, 5.0), (0.05, 2.0), (0.03, 1.2))
"""Medians in metres and degrees, both to be reached at once."""
NUM_BLOCKS, BLOCK, LEAST_BLOCKS = 2, 50, 7
"""Blocks held out, frames in each, and the blocks that a scene must have for that size."""
PROBE_EPOCHS = 4
MIN_HEIGHT = 16
VALIDATIONS = 60
"""In a run, about: how finely the time to a target is known."""
STORES = 8
"""States written in a run."""

ROWS: dict[str, dict[str, object]] = {
    "base": {},
    "no-ema": {"train.ema_decay": 0.0},
    "constant": {"train.schedule": "constant"},
    "progressive": {"train.low_resolution_share": 0.4},
    "curriculum": {"views.curriculum_share": 0.5, "views.curriculum_start": 0.25},
    "far-first": {"views.curriculum_share": 0.9, "views.curriculum_start": 2.0},
    "batch-8": {"train.batch_size": 8},
    "batch-32": {"train.batch_size": 32},
    "batch-64": {"train.batch_size": 64},
    "streamed": {"views.stream_per_step": 48},
    "stale": {"views.refresh_epochs": 5},
    "views-1": {"views.per_image": 1, "weights.view": 1.0},
    "views-7": {"views.per_image": 7, "weights.view": 7.0},
    "no-dropout": {"model.dropout": 0.0, "model.drop_connect": 0.0},
    "no-augment": {"train.augment": 0.0},
}
"""Changes of the preset by name, one switch each; small images have half the height."""


@dataclass(frozen=True)
class Outcome:
    """What one finished run shows."""

    seconds_to: tuple[float | None, ...]
    """Of training until each target was first reached; None: never."""
    translation_m: float
    rotation_deg: float
    images_per_s: float
    """Photographs and views, median over epochs."""
    seconds: float
    epochs: int


def changed(config: Config, changes: Mapping[str, object]) -> Config:
    """The settings with others for some keys, such as `train.batch_size`, strictly checked."""
    tree = tomllib.loads(settings.to_toml(config))
    for key, value in changes.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    return settings.from_dict(tree, ", ".join(changes) or "settings")


def parse_changes(text: str) -> dict[str, object]:
    """`train.batch_size=32,model.dropout=0.0` as keys and values; a bare word is a string."""
    found: dict[str, object] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"{part!r} must be KEY=VALUE, such as train.batch_size=32")
        found[key] = _value(value)
    return found


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def blocks_of(scene: Scene) -> dict[str, object]:
    """Settings that hold out two blocks of 50 consecutive frames, or two sevenths of few frames."""
    num = len(scene.train)
    block = max(1, min(BLOCK, num // LEAST_BLOCKS))
    return {
        "train.validation_fraction": min(0.5, NUM_BLOCKS * block / num),
        "train.validation_block": block,
    }


def without_held_out(scene: Scene) -> Scene:
    """The scene of the photographs that are trained on: a splat must not know the others either."""
    fraction, block = blocks_of(scene).values()
    assert isinstance(fraction, float)
    assert isinstance(block, int)
    mask = held_out_mask(len(scene.train), fraction, block)
    kept = tuple(frame for frame, held in zip(scene.train, mask, strict=True) if not held)
    return replace(scene, train=kept)


def run_row(
    scene: Scene,
    gaussians: Gaussians,
    config: Config,
    out: Path,
    device: torch.device,
    *,
    minutes: float,
    epochs: int | None,
) -> None:
    """Train a row, or go on with it; one that has ended is left alone.

    Without a number of epochs there are as many as `minutes` hold, by the pace of a probe.
    """
    if (out / "config.toml").exists():
        started = settings.load(out / "config.toml")
        if _timed(config, started.train.epochs) != started:
            raise ConfigError(f"{out}: the row has other settings now; name another folder")
        if outcome(out) is None:
            train(scene, gaussians, started, out, device, resume=True)
            torch.compiler.reset()
        return
    if epochs is None:
        pace = seconds_per_epoch(scene, gaussians, config, device)
        epochs = max(1, round(60 * minutes / pace))
        log.info(f"{out.name}: {pace:.3f} s an epoch, so {epochs} epochs")
    train(scene, gaussians, _timed(config, epochs), out, device)
    # What was compiled for this row's network holds it in memory, and counts for the next row's.
    torch.compiler.reset()


def _timed(config: Config, epochs: int) -> Config:
    """Settings for so many epochs, validated often and stored seldom."""
    return changed(config, {
        "train.epochs": epochs,
        "train.validate_every": max(1, epochs // VALIDATIONS),
        "train.save_every": max(1, epochs // STORES),
    })  # fmt: skip


def seconds_per_epoch(
    scene: Scene, gaussians: Gaussians, config: Config, device: torch.device
) -> float:
    """Of a probe, when everything is compiled and recorded: with small images, and with full ones.

    The mean of both, weighted by their shares of a run.
    """
    share = config.train.low_resolution_share
    short = changed(config, {
        "train.epochs": PROBE_EPOCHS, "train.validate_every": PROBE_EPOCHS,
        "train.save_every": PROBE_EPOCHS, "train.low_resolution_share": 0.5 if share else 0.0,
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "probe"
        train(scene, gaussians, short, run, device)
        seconds = [float(record["seconds"]) for record in records_of(run)]
    return share * seconds[PROBE_EPOCHS // 2 - 1] + (1 - share) * seconds[-1]


def records_of(run: Path) -> list[dict[str, Any]]:
    """The log of a run; none: it has not begun."""
    path = run / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def outcome(run: Path) -> Outcome | None:
    """What a run shows; None where it has not ended."""
    epochs, records = settings.load(run / "config.toml").train.epochs, records_of(run)
    if len(records) < epochs or not (run / "best.safetensors").exists():
        return None
    seconds_to: list[float | None] = [None] * len(TARGETS)
    total = 0.0
    for record in records:
        total += record["seconds"]
        if "validation_score" not in record:
            continue
        medians = record["validation_translation_m"], record["validation_rotation_deg"]
        for index, target in enumerate(TARGETS):
            reached = medians[0] <= target[0] and medians[1] <= target[1]
            if reached and seconds_to[index] is None:
                seconds_to[index] = total
    last = records[-1]
    return Outcome(
        tuple(seconds_to), last["validation_translation_m"], last["validation_rotation_deg"],
        statistics.median(record["images_per_s"] for record in records), total, epochs,
    )  # fmt: skip


def finished(folder: Path) -> dict[str, list[Outcome]]:
    """The finished runs of a folder, by row: its seeds."""
    found: dict[str, list[Outcome]] = {}
    for path in sorted(folder.glob("*/*/config.toml")):
        shown = outcome(path.parent)
        if shown is not None:
            found.setdefault(path.parent.parent.name, []).append(shown)
    return found


def show(folder: Path, side_by_side: bool) -> None:
    """The table of a folder; means over seeds, and their spread where there are several."""
    rows = []
    for name, outcomes in finished(folder).items():
        times = [
            _times([one.seconds_to[index] for one in outcomes], side_by_side)
            for index in range(len(TARGETS))
        ]
        rows.append([
            name, str(len(outcomes)), *times,
            _spread([100 * one.translation_m for one in outcomes], 2),
            _spread([one.rotation_deg for one in outcomes], 2),
            "-" if side_by_side else _spread([one.images_per_s for one in outcomes], 0),
            str(outcomes[0].epochs),
            "-" if side_by_side else _spread([one.seconds for one in outcomes], 0),
        ])  # fmt: skip
    targets = [f"{100 * metres:g}cm/{degrees:g}°" for metres, degrees in TARGETS]
    log.table(
        "Seconds of training to each target; medians of the last epoch, on held-out frames",
        ["row", "seeds", *targets, "cm", "degrees", "images/s", "epochs", "seconds"],
        rows,
    )


def _times(values: Sequence[float | None], side_by_side: bool) -> str:
    reached = [value for value in values if value is not None]
    if len(reached) < len(values):
        return f"{len(reached)} of {len(values)}"
    return "reached" if side_by_side else _spread(reached, 0)


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def splat_for(arguments: argparse.Namespace, scene: Scene, config: Config) -> Gaussians:
    """The splat that is given, or that of the folder, fitted without the held-out photographs."""
    if arguments.splat is not None:
        return load_ply(arguments.splat)
    path = arguments.out / "splat.ply"
    if not path.exists():
        arguments.out.mkdir(parents=True, exist_ok=True)
        save_ply(path, rap.fit(without_held_out(scene), config, arguments.device))
    return load_ply(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Seconds of training to a good pose, by schedule.")
    parser.add_argument("scene", help="a folder, or the word room")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--splat", type=Path, help="a .ply that does not know held-out frames")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--preset", help="what every row starts from")
    parser.add_argument("--set", default="", help="changes of every row: KEY=VALUE,...")
    parser.add_argument("--row", action="append", default=[], help="a further NAME:KEY=VALUE,...")
    parser.add_argument("--only", help="names of the rows to run, by commas; none: all")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each row")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, for each")
    parser.add_argument("--epochs", type=int, help="of training, instead of minutes")
    parser.add_argument("--shard", default="1/1", help="run the i-th of n parts of the rows")
    parser.add_argument("--side-by-side", action="store_true", help="show errors, no times")
    parser.add_argument("--fit-only", action="store_true", help="fit the splat and stop")
    return parser


def wanted_rows(arguments: argparse.Namespace) -> dict[str, dict[str, object]]:
    """The rows to run, by name; raises ConfigError for a name that there is not."""
    rows = dict(ROWS)
    for text in arguments.row:
        name, _, changes = text.partition(":")
        rows[name] = parse_changes(changes)
    names = list(rows) if arguments.only is None else arguments.only.split(",")
    if unknown := [name for name in names if name not in rows]:
        raise ConfigError(f"row {unknown[0]!r} does not exist; there are {', '.join(rows)}")
    return {name: rows[name] for name in names}


def shard_of(text: str, num: int) -> range:
    """Positions of the i-th of n shares, as `i/n` says."""
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise ConfigError(f"--shard {text!r} must be I/N with I from 1 to N, such as 1/4")
    return range(int(first) - 1, num, int(count))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows that are asked for and show what the folder holds; 2 for what cannot be done."""
    arguments = _parser().parse_args(argv)
    try:
        _main(arguments)
    except (ConfigError, DataError) as error:
        sys.stderr.write(f"python -m benchmarks.schedules: {error}\n")
        return 2
    return 0


def _main(arguments: argparse.Namespace) -> None:
    device, scene = pick_device(arguments.device), rap.load(arguments.scene)
    in_room = "room" if arguments.scene == "room" else "seven_scenes"
    wanted = parse_changes(arguments.set)
    base = changed(rap.preset(arguments.preset or in_room), wanted)
    half = {"train.low_resolution_height": max(MIN_HEIGHT, base.image.height // 2)}
    base = changed(base, half | blocks_of(scene) | wanted)
    runs = [
        (f"{name}/seed-{seed}", changed(base, changes | {"train.seed": seed}))
        for seed in range(1, arguments.seeds + 1)
        for name, changes in wanted_rows(arguments).items()
    ]
    share = shard_of(arguments.shard, len(runs))
    gaussians = splat_for(arguments, scene, base)
    for index in () if arguments.fit_only else share:
        name, config = runs[index]
        run_row(
            scene, gaussians, config, arguments.out / name, device,
            minutes=arguments.minutes, epochs=arguments.epochs,
        )  # fmt: skip
        show(arguments.out, arguments.side_by_side)


if __name__ == "__main__":
    sys.exit(main())
