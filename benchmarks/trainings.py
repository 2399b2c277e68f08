"""Trainings of named changes of a preset on held-out blocks: what `schedules` and `pareto` share.

The photographs of two blocks of consecutive training frames are held out; neither the splat nor the
network sees them, and the medians are theirs. Test frames are never read. A row is a run directory
`FOLDER/NAME/seed-K`, which the same command goes on with where it was stopped.
"""

import argparse
import json
import statistics
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import rap
from benchmarks.harness.children import passing_folder
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
PROBE_PERIODS = 3
MIN_HEIGHT = 16
VALIDATIONS = 60
"""In a run, about: how finely the time to a target is known."""
STORES = 8
"""States written in a run."""


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


@dataclass(frozen=True)
class Pace:
    """How fast a row trains."""

    seconds_per_epoch: float
    images_per_s: float
    """Photographs and views."""


@dataclass(frozen=True)
class Setting:
    """What all rows of a call have in common."""

    scene: Scene
    base: Config
    """The preset with what `--set` changes, two blocks held out."""
    gaussians: Gaussians
    device: torch.device


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
    setting: Setting, config: Config, out: Path, *, minutes: float, epochs: int | None
) -> None:
    """Train a row, or go on with it; one that has ended is left alone.

    Without a number of epochs there are as many as `minutes` hold, by the pace of a probe.
    """
    if (out / "config.toml").exists():
        started = settings.load(out / "config.toml")
        if _timed(config, started.train.epochs) != started:
            raise ConfigError(f"{out}: the row has other settings now; name another folder")
        if outcome(out) is None:
            _train(setting, started, out, resume=True)
        return
    if epochs is None:
        pace = probe(setting, config).seconds_per_epoch
        epochs = max(1, round(60 * minutes / pace))
        log.info(f"{out}: {pace:.3f} s an epoch, so {epochs} epochs")
    _train(setting, _timed(config, epochs), out)


def _train(setting: Setting, config: Config, out: Path, *, resume: bool = False) -> None:
    train(setting.scene, setting.gaussians, config, out, setting.device, resume=resume)
    # What was compiled for this row's network holds it in memory, and counts for the next row's.
    torch.compiler.reset()


def _timed(config: Config, epochs: int) -> Config:
    """Settings for so many epochs, validated often and stored seldom."""
    return changed(config, {
        "train.epochs": epochs,
        "train.validate_every": max(1, epochs // VALIDATIONS),
        "train.save_every": max(1, epochs // STORES),
    })  # fmt: skip


def probe(setting: Setting, config: Config) -> Pace:
    """How fast a row trains when everything is compiled and recorded: short runs.

    One for each phase that the row has: small images, full ones, a frozen trunk.
    """
    share, frozen = config.train.low_resolution_share, 1 - config.train.freeze_after
    phases = {(0.0, 1.0): max(0.0, 1 - share - frozen), (1.0, 1.0): share, (0.0, 1 / 3): frozen}
    seconds, images = 0.0, 0.0
    for (small, learning), part in phases.items():
        if part:
            changes = {
                "train.low_resolution_share": small, "train.freeze_after": learning,
                "train.cached_features": config.train.cached_features and learning < 1,
            }  # fmt: skip
            pace = _probe_phase(setting, changed(config, changes))
            seconds += part * pace.seconds_per_epoch
            images += part * pace.seconds_per_epoch * pace.images_per_s
    return Pace(seconds, images / seconds)


def _probe_phase(setting: Setting, config: Config) -> Pace:
    """Of the last of three periods, each of which redraws the views."""
    period = max(2, config.views.refresh_epochs)
    num = PROBE_PERIODS * period
    changes = {"train.epochs": num, "train.validate_every": num, "train.save_every": num}
    with passing_folder("benchmarks-") as folder:
        run = folder / "probe"
        _train(setting, changed(config, changes), run)
        records = records_of(run)[-period:]
    seconds = sum(record["seconds"] for record in records)
    images = sum(record["images_per_s"] * record["seconds"] for record in records)
    return Pace(seconds / period, images / seconds)


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


def setting_of(arguments: argparse.Namespace) -> Setting:
    """Read the scene, and the splat that is given or that of the folder, fitted if need be."""
    device, scene = pick_device(arguments.device), rap.load(arguments.scene)
    in_room = "room" if arguments.scene == "room" else "seven_scenes"
    wanted = parse_changes(arguments.set)
    base = changed(rap.preset(arguments.preset or in_room), wanted)
    half = {"train.low_resolution_height": max(MIN_HEIGHT, base.image.height // 2)}
    base = changed(base, half | blocks_of(scene) | wanted)
    path = arguments.splat or arguments.out / "splat.ply"
    if arguments.splat is None and not path.exists():
        arguments.out.mkdir(parents=True, exist_ok=True)
        save_ply(path, rap.fit(without_held_out(scene), base, arguments.device))
    return Setting(scene, base, load_ply(path), device)


def parser(description: str, minutes: float) -> argparse.ArgumentParser:
    """What one types for rows of trainings."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("scene", help="a folder, or the word room")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--splat", type=Path, help="a .ply that does not know held-out frames")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--preset", help="what every row starts from")
    parser.add_argument("--set", default="", help="changes of every row: KEY=VALUE,...")
    parser.add_argument("--only", help="names of the rows to run, by commas; none: all")
    parser.add_argument("--minutes", type=float, default=minutes, help="of training, for each")
    parser.add_argument("--epochs", type=int, help="of training, instead of minutes")
    parser.add_argument("--shard", default="1/1", help="run the i-th of n parts of the rows")
    parser.add_argument("--side-by-side", action="store_true", help="others use the machine, too")
    parser.add_argument("--fit-only", action="store_true", help="fit the splat and stop")
    return parser


def chosen(
    rows: Mapping[str, Mapping[str, object]], only: str | None
) -> dict[str, Mapping[str, object]]:
    """The rows to run, by name; raises ConfigError for a name that there is not."""
    names = list(rows) if only is None else only.split(",")
    if unknown := [name for name in names if name not in rows]:
        raise ConfigError(f"row {unknown[0]!r} does not exist; there are {', '.join(rows)}")
    return {name: rows[name] for name in names}


def shard_of(text: str, num: int) -> range:
    """Positions of the i-th of n shares, as `i/n` says."""
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise ConfigError(f"--shard {text!r} must be I/N with I from 1 to N, such as 1/4")
    return range(int(first) - 1, num, int(count))


def ended(name: str, work: Callable[[], None]) -> int:
    """The exit code of a table's command: 2, and one line, for what cannot be done; 130: Ctrl-C."""
    try:
        work()
    except (ConfigError, DataError) as error:
        sys.stderr.write(f"python -m benchmarks.{name}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"python -m benchmarks.{name}: stopped; the same command goes on\n")
        return 130
    return 0
