"""`rap eval`: score a regressor, or estimates made elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    parse,
)
from rap.config import Precision
from rap.config.inference import InferExecution


@dataclass(frozen=True)
class Eval:
    """Score poses on a scene's test frames: medians, recalls, baselines, latency.

    Writes the numbers, the poses for other tools and a picture into a report folder.
    """

    scene: SceneName
    """The scene's folder, or the word `room`."""
    run: OptionalRun = None
    """A run directory, or a .safetensors file of weights."""
    estimates: Path | None = None
    """Score these poses instead: a folder of NAME.pose.txt, or a TUM, COLMAP or visloc file."""
    out: OptionalOut = None
    """The report's folder; none: `report` beside the weights, nowhere for estimates."""
    format: SceneFormat | None = None
    """Read the folder in this format; none: recognise it."""
    device: Device = "auto"
    """`auto` is the GPU where there is one."""
    precision: Precision = "fp32"
    """Arithmetic of the network."""
    execution: InferExecution = "eager"
    """How the network runs: compiled by torch.compile, graphed: replayed as one CUDA graph."""
    batch_size: int = 64
    """Images per call, also for the throughput."""
    num_workers: int = 4
    """Threads that decode photographs."""


def run(argv: Sequence[str]) -> int:
    """Score, show, and write the report."""
    arguments: Eval = parse(Eval, "eval", argv)
    check_at_least(1, batch_size=arguments.batch_size)
    check_at_least(0, num_workers=arguments.num_workers)
    if (arguments.run is None) == (arguments.estimates is None):
        raise UsageError("give either -p RUN or --estimates FILE")
    if arguments.estimates is not None and not arguments.estimates.exists():
        raise UsageError(f"{arguments.estimates}: no such file or folder of estimates")

    folder = _report_folder(arguments)
    if folder is not None:
        check_out_folder(folder, reuse=True)

    from rap.data import load
    from rap.evaluate import (
        evaluate,
        load_run,
        pick_device,
        score_estimates,
        show,
        write_report,
    )

    if arguments.run is None:
        assert arguments.estimates is not None
        evaluation = score_estimates(load(arguments.scene, arguments.format), arguments.estimates)
    else:
        device = pick_device(arguments.device)
        checkpoint = load_run(arguments.run, device)
        evaluation = evaluate(
            load(arguments.scene, arguments.format),
            checkpoint,
            device,
            precision=arguments.precision,
            execution=arguments.execution,
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
        )
    show(evaluation)
    if folder is not None:
        write_report(evaluation, folder)
        log.info(f"{folder}: metrics.json, errors.csv, poses, trajectory.png")
    return 0


def _report_folder(arguments: Eval) -> Path | None:
    if arguments.out is not None or arguments.run is None:
        return arguments.out
    run = arguments.run
    return (run if run.is_dir() else run.parent) / "report"
