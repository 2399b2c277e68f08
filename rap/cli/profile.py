"""`rap profile`: where the time of training, fitting, view synthesis or inference goes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import rap
from rap import log
from rap.cli.arguments import (
    Device,
    OptionalOut,
    OptionalRun,
    SceneFormat,
    SceneName,
    UsageError,
    check_at_least,
    check_out_folder,
    parse_configured,
)
from rap.config import (
    Config,
    FitConfig,
    ImageConfig,
    LossWeights,
    ModelConfig,
    Precision,
    TrainConfig,
    ViewsConfig,
)
from rap.config.inference import InferExecution

KINDS = ("train", "fit", "views", "infer")


@dataclass(frozen=True)
class Profile:
    """Run a few steps of {train,fit,views,infer} under the profiler: rap profile KIND [SCENE].

    Says what a step waits for (launches, transfers, computation, input) and why; a Chrome trace,
    a memory snapshot (GPU only) and the tables go into a folder.
    """

    scene: SceneName = "room"
    """The scene's folder, or the word `room`."""
    out: OptionalOut = None
    """The folder to fill; none: `profile-KIND` here."""
    splat: Path | None = None
    """The scene's Gaussians (.ply); none: unfitted ones, for train and views."""
    run: OptionalRun = None
    """A run directory or .safetensors file, for infer; none: fresh weights."""
    steps: int = 5
    """Steps under the profiler; fewer where one takes seconds."""
    batch_size: int = 1
    """Images per step of infer."""
    batch_sizes: tuple[int, ...] = ()
    """For train: speed and memory of each of these batch sizes instead of a profile, and the knee:
    the smallest within 10 % of the best rate. Ends where memory does."""
    precision: Precision = "fp32"
    """Arithmetic of infer; training's is train.precision."""
    execution: InferExecution = "eager"
    """How infer runs the network; training's is train.execution."""
    preset: str | None = None
    """Settings to start from; none: `room` for the room, `seven_scenes` for a folder."""
    config: Path | None = None
    """A .toml file of settings to start from, or a .txt file of the published code."""
    format: SceneFormat | None = None
    """Read the folder in this format; none: recognise it."""
    device: Device = "auto"
    """`auto` is the GPU where there is one."""
    image: ImageConfig = field(default_factory=ImageConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    train: TrainConfig = field(default_factory=TrainConfig)


def run(argv: Sequence[str]) -> int:
    """Make the step, run it, show the tables."""
    argv = list(argv)
    kind = argv.pop(0) if argv and argv[0] in KINDS else None
    arguments, config = parse_configured(Profile, f"profile {kind or 'KIND'}", argv)
    if kind is None:
        raise UsageError(f"give one of {', '.join(KINDS)} first: rap profile train [SCENE]")
    check_at_least(1, steps=arguments.steps, batch_size=arguments.batch_size)
    check_at_least(1, batch_sizes=min(arguments.batch_sizes, default=1))
    if arguments.batch_sizes and kind != "train":
        raise UsageError(f"--batch-sizes is for rap profile train, not {kind}")
    out = arguments.out or Path(f"profile-{kind}")
    check_out_folder(out, reuse=True)

    if arguments.batch_sizes:
        _knee(arguments, config, out)
        return 0

    from rap.profiling import profile, text_of

    job = _job(kind, arguments, config)
    summary = profile(job, out, steps=arguments.steps)
    log.info(text_of(summary))
    log.info(f"{out}: trace.json.gz (chrome://tracing), summary.txt, summary.json")
    return 0


def _knee(arguments: Profile, config: Config, out: Path) -> None:
    from rap.evaluate import pick_device
    from rap.profiling import jobs, knee_report
    from rap.profiling.knee import batch_curve, free_host_bytes
    from rap.splat.gaussians import load_ply

    # Settings that do not fit together are refused before anything is measured.
    configs = {
        size: replace(config, train=replace(config.train, batch_size=size))
        for size in arguments.batch_sizes
    }
    device = pick_device(arguments.device)
    gaussians = None if arguments.splat is None else load_ply(arguments.splat)
    scene = rap.load(arguments.scene, arguments.format)
    material = jobs.training_material(scene, gaussians, config, device)
    curve = batch_curve(
        f"training steps of {scene.source}, {config.train.precision}",
        lambda size: jobs.training_job(material, configs[size], device),
        arguments.batch_sizes,
        free_host_bytes,
    )
    out.mkdir(parents=True, exist_ok=True)
    knee_report.write(curve, out)
    knee_report.show(curve)
    log.info(f"{out}: knee.txt, knee.json, knee.png")


def _job(kind: str, arguments: Profile, config: Config) -> "rap.profiling.Job":
    from rap.data import load
    from rap.evaluate import load_run, pick_device
    from rap.profiling import jobs
    from rap.splat.gaussians import load_ply

    device = pick_device(arguments.device)
    gaussians = None if arguments.splat is None else load_ply(arguments.splat)
    checkpoint = None if arguments.run is None else load_run(arguments.run, device)
    scene = load(arguments.scene, arguments.format)
    if kind == "train":
        return jobs.train_job(scene, gaussians, config, device)
    if kind == "fit":
        return jobs.fit_job(scene, config, device)
    if kind == "views":
        return jobs.views_job(scene, gaussians, config, device)
    return jobs.infer_job(
        scene,
        checkpoint,
        config,
        device,
        arguments.batch_size,
        arguments.precision,
        arguments.execution,
    )
