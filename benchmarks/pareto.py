"""Error beside latency and training speed: `python -m benchmarks.pareto SCENE -o FOLDER`.

Points are layers x backbone x height of the image, each trained for a minute (`--minutes`) on the
photographs that `trainings` does not hold out, and scored on the others. First every point's speed
is measured alone: latency of one image and images/s in batches, of a network with random weights,
and the pace of a few epochs of training, by which a minute becomes a number of epochs. On several
GPUs, or several processes on one:

    python -m benchmarks.pareto SCENE -o FOLDER --measure-only
    python -m benchmarks.pareto SCENE -o FOLDER --side-by-side --shard 1/4    # and 2/4, 3/4, 4/4

The table on stderr and FOLDER/pareto.png show every point that is finished, the front marked: those
that no other one beats in latency and in the score of `rap.evaluate` at once.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.trainings import (
    Outcome,
    Setting,
    changed,
    chosen,
    ended,
    finished,
    parser,
    probe,
    run_row,
    setting_of,
    shard_of,
)
from rap import log
from rap.config import Config, ConfigError
from rap.config.inference import InferExecution
from rap.evaluate import Localizer, measure_latency
from rap.model.regressor import build_regressor

SMALL = 2 / 3
"""Height of the smaller images, of the preset's."""
POINTS: dict[str, dict[str, object]] = {
    f"{backbone}-{layers}-{size}": {"model.backbone": backbone, "model.layers": layers}
    for size in ("full", "small") for backbone in ("b0", "b2") for layers in (1, 3, 6)
}  # fmt: skip
"""Changes of the preset by name; a minute each."""
ROUNDS = {"cpu": 5, "cuda": 300}
"""Of one image; as many batches, up to the time that `measure_latency` takes."""
BATCH_SIZE = 64
EXECUTIONS: dict[str, InferExecution] = {"cpu": "eager", "cuda": "graphed"}


@dataclass(frozen=True)
class Speed:
    """What does not depend on the weights, measured alone."""

    p50_ms: float
    throughput_per_s: float
    """Images of one size in batches of `BATCH_SIZE`."""
    training_images_per_s: float
    seconds_per_epoch: float
    execution: str


@dataclass(frozen=True)
class Point:
    """A finished training and its speed."""

    name: str
    outcome: Outcome
    speed: Speed

    @property
    def score(self) -> float:
        """The rule of `rap.evaluate.score` on the medians."""
        return self.outcome.translation_m / 0.05 + self.outcome.rotation_deg / 5


def config_of(name: str, base: Config) -> Config:
    """The settings of a point."""
    height = round(base.image.height * (SMALL if name.endswith("small") else 1))
    return changed(base, {**POINTS[name], "image.height": height})


def measured(setting: Setting, config: Config) -> Speed:
    """Speed of a point's network and of its training."""
    device = setting.device
    pace = probe(setting, config)
    camera = setting.scene.camera.with_height(config.image.height)
    regressor = build_regressor(config.model, config.train.seed).to(device).eval()
    locate = Localizer(
        regressor, camera, config.train.precision, BATCH_SIZE, EXECUTIONS[device.type]
    )
    latency = measure_latency(locate, camera, device, BATCH_SIZE, ROUNDS[device.type])
    return Speed(
        latency.p50_ms, latency.throughput_per_s, pace.images_per_s, pace.seconds_per_epoch,
        f"{locate.runs} {config.train.precision}",
    )  # fmt: skip


def stored_speed(folder: Path) -> Speed | None:
    """What an earlier call has measured for a point, if it has."""
    path = folder / "speed.json"
    return Speed(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def store_speed(folder: Path, speed: Speed) -> None:
    """Keep it beside the point's run."""
    folder.mkdir(parents=True, exist_ok=True)
    with log.replacing(folder / "speed.json") as temporary:
        temporary.write_text(json.dumps(asdict(speed)), encoding="utf-8")


def points_of(folder: Path) -> list[Point]:
    """Every finished point of a folder that has been measured, fastest first."""
    found = []
    for name, outcomes in finished(folder).items():
        speed = stored_speed(folder / name)
        if name in POINTS and speed is not None:
            found.append(Point(name, outcomes[0], speed))
    return sorted(found, key=lambda point: point.speed.p50_ms)


def front(points: Sequence[Point]) -> set[str]:
    """Names of those points than which no faster one scores better; `points` are fastest first."""
    best, names = float("inf"), set()
    for point in points:
        if point.score < best:
            best = point.score
            names.add(point.name)
    return names


def show(folder: Path) -> None:
    """The table, and the picture if it can be drawn."""
    points = points_of(folder)
    kept = front(points)
    rows = [
        [
            point.name, f"{100 * point.outcome.translation_m:.2f}",
            f"{point.outcome.rotation_deg:.2f}", f"{point.speed.p50_ms:.3f}",
            f"{point.speed.throughput_per_s:.0f}", f"{point.speed.training_images_per_s:.0f}",
            point.outcome.epochs, "*" if point.name in kept else "",
        ]
        for point in points
    ]  # fmt: skip
    how = ", ".join(sorted({point.speed.execution for point in points}))
    log.table(
        f"Medians on held-out frames; latency and images/s of the network ({how})",
        ["backbone-layers-size", "cm", "degrees", "ms", "images/s", "trained/s", "epochs", "front"],
        rows,
    )
    try:
        picture(folder / "pareto.png", points)
    except (ImportError, OSError, ValueError) as error:
        log.warn(f"no {folder / 'pareto.png'}: {error}")


def picture(path: Path, points: Sequence[Point]) -> None:
    """Both errors against latency and against training speed; the front of latency is a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    along = {
        "latency of one image [ms]": [point.speed.p50_ms for point in points],
        "training [images/s]": [point.speed.training_images_per_s for point in points],
    }
    up = {
        "translation, median [cm]": [100 * point.outcome.translation_m for point in points],
        "rotation, median [deg]": [point.outcome.rotation_deg for point in points],
    }
    kept = [index for index, point in enumerate(points) if point.name in front(points)]
    grid = figure.subplots(len(up), len(along), squeeze=False)
    for row, (y_name, y) in zip(grid, up.items(), strict=True):
        for axes, (x_name, x) in zip(row, along.items(), strict=True):
            axes.scatter(x, y, s=22)
            for index, point in enumerate(points):
                axes.annotate(point.name, (x[index], y[index]), fontsize=8)
            if x_name.startswith("latency"):
                axes.plot([x[index] for index in kept], [y[index] for index in kept], alpha=0.5)
            axes.set(xlabel=x_name, ylabel=y_name)
    with log.replacing(path) as temporary:
        canvas.print_figure(temporary, format="png", dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and train the points that are asked for; 2 for what cannot be done."""
    wanted = parser("Error of a minute's training beside latency and speed.", minutes=1.0)
    wanted.add_argument("--measure-only", action="store_true", help="measure speeds and stop")
    arguments = wanted.parse_args(argv)
    return ended("pareto", lambda: _main(arguments))


def _main(arguments: argparse.Namespace) -> None:
    names = list(chosen(POINTS, arguments.only))
    own = [names[index] for index in shard_of(arguments.shard, len(names))]
    if arguments.side_by_side:
        unmeasured = [name for name in own if stored_speed(arguments.out / name) is None]
        if unmeasured:
            raise ConfigError(
                f"{arguments.out / unmeasured[0]} has not been measured, which it must be alone: "
                "run --measure-only before --side-by-side"
            )
    setting = setting_of(arguments)
    for name in () if arguments.fit_only else own:
        if stored_speed(arguments.out / name) is None:
            store_speed(arguments.out / name, measured(setting, config_of(name, setting.base)))
    for name in () if arguments.fit_only or arguments.measure_only else own:
        _train(setting, arguments, name)
        show(arguments.out)


def _train(setting: Setting, arguments: argparse.Namespace, name: str) -> None:
    speed = stored_speed(arguments.out / name)
    assert speed is not None
    epochs = arguments.epochs or max(1, round(60 * arguments.minutes / speed.seconds_per_epoch))
    run = arguments.out / name / f"seed-{setting.base.train.seed}"
    run_row(setting, config_of(name, setting.base), run, minutes=0.0, epochs=epochs)


if __name__ == "__main__":
    sys.exit(main())
