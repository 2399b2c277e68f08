"""`rap profile`: where the time of training, fitting, view synthesis or inference goes."""

import re
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

_SETTINGS = {
    "train": ("image", "model", "fit", "views", "weights", "train"),
    "fit": ("image.num-workers", "image.cache-dir", "fit"),
    "views": ("image", "fit", "views", "train.seed", "train.epochs", "train.validation-fraction",
              "train.validation-block"),
    "infer": ("image.height", "model", "train.seed"),
}  # fmt: skip
"""Settings that each kind reads: whole sections, or single ones."""
_UNREAD = {
    "train": ("train.schedule", "train.patience", "train.validate-every", "train.save-every",
              "views.refresh-epochs"),
    "views": ("views.stream-per-step", "views.refresh-epochs"),
}  # fmt: skip
"""Of these, what only a whole run follows: one step, or one redraw of all views, does not."""
_OF_INFER = ("batch-size", "precision", "execution", "run")


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
    _check_flags(kind, argv, arguments)
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


def _check_flags(kind: str, argv: Sequence[str], arguments: Profile) -> None:
    """Refuse the first flag that this kind of profile would not follow."""
    names = [re.sub(r"\.no-", ".", word[2:].partition("=")[0].replace("_", "-"))
             for word in argv if word.startswith("--")]  # fmt: skip
    names += ["run"] * any(word.startswith("-p") for word in argv)
    for name in names:
        if reason := _why_unread(kind, name, arguments):
            raise UsageError(f"--{name} has no effect on rap profile {kind}: {reason}")


def _why_unread(kind: str, name: str, arguments: Profile) -> str:
    """Why a profile does not follow a flag; empty where it does."""
    section = name.partition(".")[0]
    if name in _OF_INFER and kind != "infer":
        has_twin = kind == "train" and hasattr(TrainConfig, name.replace("-", "_"))
        twin = f", training's is --train.{name}" if has_twin else ""
        return f"it is for rap profile infer{twin}"
    if name == "splat" and kind in ("fit", "infer"):
        return "it reads no Gaussians"
    if name in ("steps", "train.batch-size") and arguments.batch_sizes:
        return "--batch-sizes says what is measured"
    if "." not in name:
        return ""
    if section == "fit" and kind != "fit" and arguments.splat is not None:
        return "--splat gives the Gaussians"
    if kind == "infer" and arguments.run is not None:
        return "--run holds its own settings"
    if name in _UNREAD.get(kind, ()):
        return "only a whole run follows it"
    if section in _SETTINGS[kind] or name in _SETTINGS[kind]:
        return ""
    return f"it follows {', '.join(_SETTINGS[kind])}"


def _knee(arguments: Profile, config: Config, out: Path) -> None:
    from rap.evaluate import pick_device
    from rap.profiling import jobs, knee_report
    from rap.profiling.knee import batch_curve
    from rap.splat.gaussians import load_ply
    from rap.splat.host import host_free_bytes

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
        host_free_bytes,
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
