"""`rap eval`: score a regressor, or estimates made elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from rap.evaluate.folder import check_report_folder


@dataclass(frozen=True)
class Eval:
    """Score poses on a scene's test frames: medians, recalls, baselines, latency.

    Writes the numbers, the poses for other tools and a picture into a report folder.
    """

    scene: SceneName
    """The scene's folder, or the word `room`."""
    run: OptionalRun = None
    """A run directory, or a .safetensors file of weights."""
    artifact: Path | None = None
    """Score this file of `rap export` instead; a .pt2 is machine code, which is run."""
    estimates: Path | None = None
    """Score these poses instead: a folder of NAME.pose.txt, or a TUM, COLMAP or visloc file."""
    reference: Path | None = None
    """Say how far the poses are from these, of every test frame, such as RUN/report/poses.tum of
    the same network in fp32; then -o is needed, for a report replaces an older one."""
    out: OptionalOut = None
    """The report's folder; none: `report` beside the weights, nowhere for files and estimates."""
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
    given = [arguments.run, arguments.artifact, arguments.estimates]
    if sum(source is not None for source in given) != 1:
        raise UsageError("give either -p RUN, --artifact FILE or --estimates FILE")
    if arguments.run is None and (arguments.precision, arguments.execution) != ("fp32", "eager"):
        raise UsageError("--precision and --execution belong to -p RUN; a file has its own")
    for path in (arguments.estimates, arguments.reference):
        if path is not None and not path.exists():
            raise UsageError(f"{path}: no such file or folder of estimates")

    folder = _report_folder(arguments)
    if folder is not None:
        check_out_folder(folder, reuse=True)
        check_report_folder(folder)
        _check_apart(folder, arguments)

    from rap.evaluate import show, write_report
    from rap.train.distributed import current
    from rap.train.launch import joined

    with joined(arguments.device, "score again") as device:
        evaluation, leads = _scored(arguments, device), current().leads
        show(evaluation)
    if leads and folder is not None:
        if folder.exists() and any(folder.iterdir()):
            log.info(f"{folder}: its older report is replaced")
        write_report(evaluation, folder)
        log.info(f"{folder}: metrics.json, errors.csv, poses, trajectory.png")
    return 0


def _scored(arguments: Eval, name: str) -> Any:  # noqa: ANN401 (an Evaluation, whose module imports torch)
    """What was asked to be scored, scored."""
    from rap.evaluate import (
        against,
        evaluate,
        evaluate_locator,
        load_run,
        pick_device,
        score_estimates,
    )

    if arguments.estimates is not None:
        scene, reference = _to_score(arguments)
        return against(score_estimates(scene, arguments.estimates), reference)
    from rap.train.distributed import stream_shared

    device = pick_device(name)
    how: dict[str, Any] = {
        "batch_size": arguments.batch_size, "num_workers": arguments.num_workers,
        "streaming": stream_shared,
    }  # fmt: skip
    if arguments.artifact is not None:
        from rap.export import load_artifact

        artifact = load_artifact(arguments.artifact, device)
        details = artifact.details
        facts = {"artifact": artifact.description, "precision": details.precision}
        scene, reference = _to_score(arguments)
        scored = evaluate_locator(
            scene, details.camera, artifact.locate, details.provenance | facts, device, **how
        )
        return against(scored, reference)
    assert arguments.run is not None
    checkpoint = load_run(arguments.run, device)
    scene, reference = _to_score(arguments)
    scored = evaluate(
        scene, checkpoint, device, precision=arguments.precision, execution=arguments.execution,
        **how,
    )  # fmt: skip
    return against(scored, reference)


def _to_score(arguments: Eval) -> Any:  # noqa: ANN401 (a Scene and a Reference or None)
    """The scene, and the poses that its own are compared with: read before anything is computed."""
    from rap.data import load
    from rap.evaluate import read_reference

    scene = load(arguments.scene, arguments.format)
    wanted = arguments.reference
    return scene, None if wanted is None else read_reference(scene, wanted)


def _check_apart(folder: Path, arguments: Eval) -> None:
    """Raise UsageError where the report would take the place of poses that it is about."""
    for name in ("estimates", "reference"):
        path: Path | None = getattr(arguments, name)
        if path is not None and path.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"--{name} {path} lies in {folder}, which the new report replaces; name another "
                "folder with -o"
            )


def _report_folder(arguments: Eval) -> Path | None:
    if arguments.out is not None or arguments.run is None:
        return arguments.out
    run = arguments.run
    return (run if run.is_dir() else run.parent) / "report"
