"""A scored set of test frames: beside honest baselines, as a table and as files."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from rap import log
from rap.camera import Camera
from rap.config import Precision
from rap.config.inference import InferExecution
from rap.evaluate.baselines import constant_mean_pose, nearest_pose_retrieval
from rap.evaluate.errors import (
    RECALL_THRESHOLDS,
    SCORE_RULE,
    PoseErrors,
    ScoreError,
    Summary,
    pose_errors,
    summarise,
)
from rap.evaluate.estimates import read_estimates, write_colmap, write_pose_files, write_tum
from rap.evaluate.folder import replacing_report
from rap.evaluate.inference import (
    Latency,
    Locate,
    Streamed,
    check_aspect,
    measure_latency,
    stream,
)
from rap.evaluate.localizer import Localizer
from rap.evaluate.plot import trajectory_picture
from rap.evaluate.reference import Difference, Reference, difference
from rap.model.checkpoint import Checkpoint
from rap.scene import Frame, Scene, poses

_FOCAL_TOLERANCE = 0.01
# How the provenance of weights that a validation chose begins; others were not chosen by a score.
_CHOSEN_BY_SCORE = "lowest validation score"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Estimates for all test frames of a scene, and what they are worth."""

    source: str
    """The scene, as its reader describes it."""
    frames: tuple[Frame, ...]
    predicted: Float64[Tensor, "n 4 4"]
    errors: PoseErrors
    summary: Summary
    baselines: dict[str, Summary]
    """Estimates that need no photograph, by name."""
    provenance: dict[str, str]
    """Where the estimates came from."""
    latency: Latency | None = None
    streamed_per_s: float | None = None
    """Images per second from files to poses on the host."""
    off: Difference | None = None
    """From a reference, such as the same network in fp32."""


def evaluate(
    scene: Scene,
    checkpoint: Checkpoint,
    device: torch.device,
    *,
    precision: Precision = "fp32",
    execution: InferExecution = "eager",
    batch_size: int = 64,
    num_workers: int = 4,
    latency_rounds: int | None = None,
    streaming: Callable[..., Streamed] = stream,
) -> Evaluation:
    """Score a regressor, which must be on `device`, on the test frames.

    Raises ScoreError for a score that would mean nothing, DataError for photographs of another
    shape than the network's, ConfigError for what the device cannot do.
    """
    _check_scene(scene, checkpoint.camera)
    locate = Localizer(checkpoint.regressor, checkpoint.camera, precision, batch_size, execution)
    scored = evaluate_locator(
        scene, checkpoint.camera, locate, checkpoint.provenance | {"precision": precision}, device,
        batch_size=batch_size, num_workers=num_workers, latency_rounds=latency_rounds,
        streaming=streaming,
    )  # fmt: skip
    # What ran, which need not be what was asked for.
    return dataclasses.replace(scored, provenance=scored.provenance | {"execution": locate.runs})


def evaluate_locator(
    scene: Scene,
    camera: Camera,
    locate: Locate,
    provenance: dict[str, str],
    device: torch.device,
    *,
    batch_size: int = 64,
    num_workers: int = 4,
    latency_rounds: int | None = None,
    streaming: Callable[..., Streamed] = stream,
) -> Evaluation:
    """Score anything that finds the poses of images of a camera, such as an exported network.

    `streaming` is `stream`, or what shares its work between processes. Raises as `evaluate` does.
    """
    _check_scene(scene, camera)
    _warn_of_another_scene(scene.source, provenance.get("scene"))
    # The latency first: kernels are chosen, compiled and recorded in its first calls.
    latency = measure_latency(locate, camera, device, batch_size, latency_rounds)
    streamed = streaming(scene.test, camera, locate, device, batch_size, num_workers)
    known = provenance | {"device": _device_name(device), "num_workers": str(num_workers)}
    scored = _evaluation(scene, streamed.poses, known, latency)
    return dataclasses.replace(scored, streamed_per_s=streamed.images_per_s)


def score_estimates(scene: Scene, path: Path) -> Evaluation:
    """Score estimates made elsewhere; test frames without one count as failures.

    Raises DataError for files that cannot be read, ScoreError for a score that would mean nothing.
    """
    if not scene.test:
        raise ScoreError(f"{scene.source}: the test set is empty, there is nothing to score")
    predicted = read_estimates(path, [frame.name for frame in scene.test])
    return _evaluation(scene, predicted, {"estimates": str(path)}, None)


def against(evaluation: Evaluation, reference: Reference | None) -> Evaluation:
    """The same with its difference from a reference, if there is one."""
    if reference is None:
        return evaluation
    return dataclasses.replace(evaluation, off=difference(evaluation.predicted, reference))


def show(evaluation: Evaluation) -> None:
    """The table for the person at the terminal."""
    columns = {"estimates": evaluation.summary} | evaluation.baselines
    cells = [_cells(summary) for summary in columns.values()]
    rows = [[label, *(column[label] for column in cells)] for label in cells[0]]
    log.table(f"{evaluation.summary.num} test frames", ["", *columns], rows)
    named = (
        "artifact", "selection", "epoch", "batch_norm", "seed", "precision", "execution", "device"
    )  # fmt: skip
    facts = {name: evaluation.provenance[name] for name in named if name in evaluation.provenance}
    if facts:
        log.info(", ".join(f"{name.replace('_', ' ')}: {fact}" for name, fact in facts.items()))
    if "views" in evaluation.provenance:
        log.info(f"views trained on: {evaluation.provenance['views']}")
    if evaluation.latency is not None:
        time = evaluation.latency
        log.info(
            f"network alone: {time.p50_ms:.2f} ms for one image (95 %: {time.p95_ms:.2f} ms, "
            f"99 %: {time.p99_ms:.2f} ms), {time.throughput_per_s:.0f} images/s in batches of "
            f"{time.batch_size}"
        )
    if evaluation.streamed_per_s is not None:
        workers = evaluation.provenance.get("num_workers")
        log.info(
            f"from files to poses: {evaluation.streamed_per_s:.0f} images/s, {workers} threads "
            "decoding"
        )
    if evaluation.off is not None:
        log.info(evaluation.off.text())


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """metrics.json, errors.csv, the estimates in three formats, and a picture.

    The folder appears whole, in place of an older report; FileExistsError where it holds anything
    else. A picture that cannot be drawn is a warning: the numbers are what counts.
    """
    with replacing_report(folder) as new:
        _fill(evaluation, new)


def _fill(evaluation: Evaluation, folder: Path) -> None:
    _write(folder / "metrics.json", json.dumps(metrics(evaluation), indent=2) + "\n")
    _write(folder / "errors.csv", _csv(evaluation))
    names = [frame.name for frame in evaluation.frames]
    write_tum(folder / "poses.tum", evaluation.predicted)
    files = [_file_name(frame) for frame in evaluation.frames]
    write_colmap(folder / "images.txt", files, evaluation.predicted)
    write_pose_files(folder / "poses", names, evaluation.predicted)
    summary = evaluation.summary
    title = (
        f"{evaluation.source}: median {100 * summary.median_translation_m:.1f} cm, "
        f"{summary.median_rotation_deg:.2f} deg on {summary.num} test frames"
    )
    try:
        trajectory_picture(
            folder / "trajectory.png", title, evaluation.predicted, poses(evaluation.frames),
            evaluation.errors,
        )  # fmt: skip
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        log.warn(f"no trajectory.png: {error}")


def metrics(evaluation: Evaluation) -> dict[str, object]:
    """The content of metrics.json; an infinite number is null there.

    `selection_rule` says how the score was computed that chose the weights, where one did.
    """
    latency = evaluation.latency
    by_score = evaluation.provenance.get("selection", "").startswith(_CHOSEN_BY_SCORE)
    content: dict[str, object] = {
        "scene": evaluation.source,
        "estimates": _plain(evaluation.summary),
        "baselines": {name: _plain(summary) for name, summary in evaluation.baselines.items()},
        "latency": None if latency is None else dataclasses.asdict(latency),
        "streamed_per_s": evaluation.streamed_per_s,
        "provenance": evaluation.provenance,
    }
    if evaluation.off is not None:
        content["off"] = {"reference": evaluation.off.source} | {
            name: number if math.isfinite(number) else None
            for name, number in evaluation.off.numbers().items()
        }
    if by_score:
        content["selection_rule"] = SCORE_RULE
    return content


def _evaluation(
    scene: Scene,
    predicted: Float64[Tensor, "n 4 4"],
    provenance: dict[str, str],
    latency: Latency | None,
) -> Evaluation:
    errors = pose_errors(predicted, poses(scene.test))
    summary = summarise(errors)
    return Evaluation(
        scene.source, scene.test, predicted, errors, summary, _baselines(scene), provenance, latency
    )


def _baselines(scene: Scene) -> dict[str, Summary]:
    """Summaries of the estimates that need no photograph, where they mean something."""
    train, test = poses(scene.train), poses(scene.test)
    summaries = {}
    for name, baseline in (
        ("nearest train pose", nearest_pose_retrieval),
        ("mean train pose", constant_mean_pose),
    ):
        try:
            summaries[name] = summarise(baseline(train, test))
        except ScoreError as error:
            log.warn(f"no baseline '{name}': {error}")
    return summaries


def _check_scene(scene: Scene, camera: Camera) -> None:
    """Something to score, of the training's shape; another focal length is a warning."""
    if not scene.test:
        raise ScoreError(f"{scene.source}: the test set is empty, there is nothing to score")
    check_aspect(scene.source, scene.camera.width, scene.camera.height, camera)
    resized = scene.camera.resized(camera.width, camera.height)
    change = max(abs(resized.fx / camera.fx - 1), abs(resized.fy / camera.fy - 1))
    if change > _FOCAL_TOLERANCE:
        log.warn(
            f"{scene.source}: its focal length is {resized.fx:.1f} px at the network's size, the "
            f"network was trained with {camera.fx:.1f} px; expect worse poses"
        )


def _warn_of_another_scene(scored: str, trained: str | None) -> None:
    """A line where a network is scored on another scene than its own; none: nobody knows which."""
    if trained is not None and not _one_scene(scored, trained):
        log.warn(
            f"the network was trained on {trained}, and is scored on the test frames of {scored}: "
            "unless both are one place in one frame of reference, its poses mean nothing there"
        )


def _one_scene(a: str, b: str) -> bool:
    """Whether two descriptions (kind, then path) may be of one folder, named from elsewhere."""
    (*kind_a, path_a), (*kind_b, path_b) = a.split(" ", 2), b.split(" ", 2)
    parts_a, parts_b = Path(path_a).parts, Path(path_b).parts
    num = min(len(parts_a), len(parts_b))
    return a == b or (kind_a == kind_b and num > 0 and parts_a[-num:] == parts_b[-num:])


def _cells(summary: Summary) -> dict[str, str]:
    recalls = {
        f"within {100 * m:.0f} cm, {deg:.0f} deg": f"{summary.recalls[name]:.1%}"
        for name, (m, deg) in RECALL_THRESHOLDS.items()
    }
    return {
        "median translation": f"{100 * summary.median_translation_m:.2f} cm",
        "median rotation": f"{summary.median_rotation_deg:.2f} deg",
        "mean translation": f"{100 * summary.mean_translation_m:.2f} cm",
        "mean rotation": f"{summary.mean_rotation_deg:.2f} deg",
        **recalls,
        "frames without estimate": str(summary.num_failures),
    }


def _plain(summary: Summary) -> dict[str, object]:
    values = dataclasses.asdict(summary)
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def _csv(evaluation: Evaluation) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "translation_m", "rotation_deg"])
    errors = evaluation.errors
    for frame, translation, rotation in zip(
        evaluation.frames, errors.translation_m.tolist(), errors.rotation_deg.tolist(), strict=True
    ):
        writer.writerow([frame.name, f"{translation:.6g}", f"{rotation:.6g}"])
    return text.getvalue()


def _file_name(frame: Frame) -> str:
    """The frame's name with the suffix of its image, which other tools match by."""
    stem = frame.name.rpartition("/")[2]
    if isinstance(frame.image, Path) and frame.image.name.startswith(stem):
        return frame.name + frame.image.name.removeprefix(stem)
    return f"{frame.name}.png"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _write(path: Path, text: str) -> None:
    with log.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
