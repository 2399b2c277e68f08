"""Which schedule gets there: `python -m benchmarks.schedules SCENE -o FOLDER`.

Each row is a preset with named changes, trained on the training photographs without two blocks of
consecutive frames and scored on those; test frames are never read. The table on stderr says how
many seconds of training a row needs to each target, and where it ends. These are the seconds of the
epochs, views included, validation and start left out. The first epoch holds the recording of the
step, and its compilation with a warm cache: a probe of a few epochs ran before, by whose pace a row
gets as many epochs as it has time for.

The same command goes on where it was stopped, and the table shows every finished row of the folder.
Several processes can share it: fit first (`--fit-only`), then give each its rows (`--only`) or its
part of them (`--shard 1/4`). Processes that share a machine slow each other down: `--side-by-side`
leaves times out, and `--epochs` gives all rows as much training.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.trainings import (
    TARGETS,
    changed,
    chosen,
    ended,
    finished,
    parse_changes,
    parser,
    run_row,
    setting_of,
    shard_of,
)
from rap import log

ROWS: dict[str, dict[str, object]] = {
    "base": {},
    "no-ema": {"train.ema_decay": 0.0},
    "constant": {"train.schedule": "constant"},
    "progressive": {"train.low_resolution_share": 0.4},
    "curriculum": {"views.curriculum_share": 0.5, "views.curriculum_start": 0.25},
    "far-first": {"views.curriculum_share": 0.9, "views.curriculum_start": 2.0},
    "frozen": {"train.freeze_after": 0.7},
    "cached": {
        "train.freeze_after": 0.7,
        "train.cached_features": True,
        "views.refresh_epochs": 5,
    },
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
"""Changes of the preset by name, one switch each; small images have half the height.

`cached` is `stale` with a trunk frozen in the end, as `frozen` has it."""


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows that are asked for and show what the folder holds; 2 for what cannot be done."""
    wanted = parser("Seconds of training to a good pose, by schedule.", minutes=4.0)
    wanted.add_argument("--row", action="append", default=[], help="a further NAME:KEY=VALUE,...")
    wanted.add_argument("--seeds", type=int, default=1, help="trainings of each row")
    arguments = wanted.parse_args(argv)
    return ended("schedules", lambda: _main(arguments))


def _main(arguments: argparse.Namespace) -> None:
    rows: dict[str, Mapping[str, object]] = dict(ROWS)
    for text in arguments.row:
        name, _, changes = text.partition(":")
        rows[name] = parse_changes(changes)
    wanted = chosen(rows, arguments.only)
    runs = [(name, seed) for seed in range(1, arguments.seeds + 1) for name in wanted]
    share = shard_of(arguments.shard, len(runs))
    setting = setting_of(arguments)
    for name, seed in () if arguments.fit_only else (runs[index] for index in share):
        config = changed(setting.base, {**wanted[name], "train.seed": seed})
        run_row(
            setting, config, arguments.out / name / f"seed-{seed}",
            minutes=arguments.minutes, epochs=arguments.epochs,
        )  # fmt: skip
        show(arguments.out, arguments.side_by_side)


if __name__ == "__main__":
    sys.exit(main())
