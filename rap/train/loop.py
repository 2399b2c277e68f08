"""The training loop: epochs, validation, the best checkpoint, and a state to resume from."""

import copy
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from rap import log
from rap.camera import Camera
from rap.config import Config
from rap.evaluate import pose_errors, score, summarise
from rap.model.regressor import build_regressor
from rap.scene import Frame, Scene
from rap.splat.gaussians import Gaussians
from rap.synthesis.views import RefreshStats
from rap.train import rejects
from rap.train.banks import (
    Material,
    draw_views,
    drawn_in,
    fingerprint,
    prepare,
    restore_views,
    streamed,
)
from rap.train.batches import epoch_indices, epoch_seed
from rap.train.checks import check_settings
from rap.train.distributed import current, predict_shared
from rap.train.errors import TrainingError
from rap.train.execution import Runner
from rap.train.folder import check_run, opened, settings_that_matter
from rap.train.inputs import Inputs
from rap.train.keeping import Keeper, Writer
from rap.train.memory import announce, check_host_memory, out_of_memory_explained
from rap.train.schedule import image_height, learning_rate_factor
from rap.train.state import Progress, load_state
from rap.train.step import Learner, build_learner

PLATEAU_PATIENCE = 50
PLATEAU_FACTOR = 0.95
CALIBRATION_BATCH = 32


def train(
    scene: Scene,
    gaussians: Gaussians | None,
    config: Config,
    out: Path,
    device: torch.device,
    *,
    resume: bool = False,
) -> Path:
    """Train a regressor into the run directory `out`; returns the path of `best.safetensors`.

    Every epoch ends with a state from which `resume=True` goes on, on the CPU bit for bit. Raises
    ConfigError for settings that do not fit together or a directory that holds another run or is
    in use, and TrainingError when the loss is not finite or memory does not suffice.
    """
    ranks = current()
    local = ranks.local(config)
    check_run(out, config, resume)
    check_settings(local, len(scene.train), device)
    # Until all have looked at the directory, none writes to it.
    ranks.wait()
    camera = scene.camera.with_height(config.image.height)
    check_host_memory(len(scene.train), camera, config, device)
    with out_of_memory_explained(local, camera):
        material = prepare(scene, gaussians, config, device)
        learner = new_learner(material, config, device)
    with opened(out, config, resume) if ranks.leads else nullcontext():
        return _run(material, learner, scene.train, config, out, device, resume=resume)


def _run(
    material: Material,
    learner: Learner,
    frames: Sequence[Frame],
    config: Config,
    out: Path,
    device: torch.device,
    *,
    resume: bool,
) -> Path:
    """All epochs, from the first one or from where the stored state is."""
    ranks = current()
    local = ranks.local(config)
    announce(local, material.camera, device, material.banks)
    mark = fingerprint(material, frames, settings_that_matter(config))
    ranks.check_same("photographs, Gaussians or settings", mark)
    progress = Progress()
    if resume:
        if (out / "state.pt").exists():
            progress = load_state(out / "state.pt", learner, mark)
        _continue_run(out, material, config, progress)
    learner.join(ranks)
    runner = Runner(learner, config, device)
    inputs = Inputs(learner.regressor, material, config)
    with (
        _private_random_state(device),
        _progress(material, config, progress) as tick,
        Writer() as writer,
        out_of_memory_explained(local, material.camera, material.banks),
    ):
        warn_of_rejects = rejects.once(config.views)
        keeper = Keeper(writer, out, learner, config, material.camera, material.source, mark)
        for epoch in range(progress.epochs_done, config.train.epochs):
            # Asked before an epoch, so that a run resumed after its early stop stays stopped.
            if 0 < config.train.patience <= progress.validations_since_best:
                log.info(f"stopping: no better score in {config.train.patience} validations")
                break
            with _positions_of(learner, material.camera, image_height(config, epoch)):
                record = _epoch(runner, inputs, material, config, epoch, progress, tick)
            selection = _validate(learner, material, config, epoch, progress, record)
            progress.epochs_done = epoch + 1
            if ranks.leads:
                warn_of_rejects(record)
                keeper.keep(epoch, progress, record, selection)
        if ranks.leads:
            keeper.finish(progress)
    return out / "best.safetensors"


def _continue_run(out: Path, material: Material, config: Config, progress: Progress) -> None:
    """Bring views and log to where the stored state is."""
    log.info(f"resuming after epoch {progress.epochs_done} of {config.train.epochs}")
    num_steps = -(-material.banks.photographs.num // config.train.batch_size)
    restore_views(material, config, progress.epochs_done, num_steps)
    if not current().leads:
        return
    path = out / "log.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    with log.replacing(path) as temporary:
        kept = [line for line in lines if _epoch_of(line) < progress.epochs_done]
        last = progress.epochs_done - 1
        if progress.line and last not in map(_epoch_of, kept):
            # The run was killed between state and log.
            kept.append(json.dumps(json.loads(progress.line), sort_keys=True))
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _epoch_of(line: str) -> float:
    """The epoch of a log line; a line that is torn or damaged belongs to none that is done."""
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, TypeError, KeyError):
        return math.inf


def _epoch(
    runner: Runner,
    inputs: Inputs,
    material: Material,
    config: Config,
    epoch: int,
    progress: Progress,
    tick: log.Ticker,
) -> dict[str, object]:
    """One pass over the photographs; returns the epoch's log record."""
    start = time.perf_counter()
    train, ranks = config.train, current()
    stats = None
    if epoch == drawn_in(epoch, config):
        stats = draw_views(material, config, epoch)
    refresh_s = time.perf_counter() - start
    torch.manual_seed(epoch_seed(train.seed, epoch, ranks.purpose("dropout")))
    indices = epoch_indices(material.banks.photographs.num, train.batch_size, train.seed, epoch)
    num_steps, totals, num_images, factor = len(indices), {}, 0, 0.0
    found = inputs.of_epoch(epoch, ranks.part(indices))
    for batch in streamed(found, material, config, epoch, num_steps):
        factor = progress.plateau_factor * learning_rate_factor(
            train.schedule, runner.num_steps, num_steps * train.epochs
        )
        for name, value in runner(batch, factor).items():
            totals[name] = totals[name] + value if name in totals else value
        num_images += len(batch.images) * ranks.world
    # The only wait for the device in an epoch.
    means = ranks.mean(torch.stack(list(totals.values())) / num_steps)
    losses = dict(zip(totals, means.tolist(), strict=True))
    if not all(map(math.isfinite, losses.values())):
        raise TrainingError(
            f"epoch {epoch}: the loss is not finite ({losses}); start a new run with a lower "
            "train.learning_rate, or with train.precision bf16 or fp32"
        )
    seconds = time.perf_counter() - start
    tick(1, **losses, images_per_s=num_images / seconds)
    record: dict[str, object] = {
        "epoch": epoch, "lr": train.learning_rate * factor, "seconds": round(seconds, 4),
        "refresh_seconds": round(refresh_s, 4), "images_per_s": round(num_images / seconds, 3),
        **{f"loss_{name}": value for name, value in losses.items()},
    }  # fmt: skip
    return record | _views_record(stats, material)


@contextmanager
def _positions_of(learner: Learner, camera: Camera, height: int) -> Iterator[None]:
    """Let cells of images of another height have the places that they have in the camera's own."""
    positions, small = learner.regressor.positions, camera.with_height(height)
    # Not one ratio: a width is rounded to whole pixels.
    positions.stretch = camera.height / small.height, camera.width / small.width
    try:
        yield
    finally:
        positions.stretch = 1.0, 1.0


def _views_record(stats: RefreshStats | None, material: Material) -> dict[str, object]:
    """What an epoch's views cost, drawn all at once or beside the steps."""
    record: dict[str, object] = {}
    if stats is not None:
        record |= {
            "views_rendered": stats.num_renders,
            "views_below_filter": stats.num_below_filter,
            "views_acceptance": round(stats.acceptance, 4),
            "views_attempts": stats.num_attempts,
            "views_low_coverage": stats.num_low_coverage,
            "views_high_brisque": stats.num_high_brisque,
        }
    if material.stream is not None:
        beside = current().total(material.stream.take_stats())
        record |= {
            "views_streamed": beside.num_views,
            "streamed_rendered": beside.num_renders,
            "streamed_below_filter": beside.num_below_filter,
            "streamed_acceptance": round(beside.acceptance, 4),
            "streamed_attempts": beside.num_attempts,
            "streamed_low_coverage": beside.num_low_coverage,
            "streamed_high_brisque": beside.num_high_brisque,
        }
    return record


def _validate(
    learner: Learner,
    material: Material,
    config: Config,
    epoch: int,
    progress: Progress,
    record: dict[str, object],
) -> str | None:
    """Score the held-out photographs; says why these weights are the best, if they are so far."""
    train = config.train
    due = (epoch + 1) % train.validate_every == 0 or epoch + 1 == train.epochs
    if not due or len(material.held_out_images) == 0:
        return None
    start = time.perf_counter()
    device = material.banks.photographs.poses.device
    predicted = predict_shared(
        learner.scored, material.held_out_images, device, precision=train.precision
    )
    errors = pose_errors(predicted, material.held_out_poses.double())
    summary, reached = summarise(errors), score(errors)
    record |= {
        "validation_translation_m": summary.median_translation_m,
        "validation_rotation_deg": summary.median_rotation_deg,
        "validation_score": reached,
        "validation_seconds": round(time.perf_counter() - start, 4),
    }
    if reached < progress.best_score:
        progress.best_score, progress.best_epoch = reached, epoch
        progress.validations_since_best = 0
        return f"lowest validation score ({reached:.6f})"
    progress.validations_since_best += 1
    if train.schedule == "plateau" and progress.validations_since_best % PLATEAU_PATIENCE == 0:
        progress.plateau_factor *= PLATEAU_FACTOR
    return None


def new_learner(material: Material, config: Config, device: torch.device) -> Learner:
    """As a run begins: weights from the seed, told where cameras are, BatchNorm as it is set."""
    regressor = build_regressor(config.model, config.train.seed)
    regressor.set_translation_stats(material.anchors.world_from_camera[:, :3, 3].cpu())
    regressor = regressor.to(device)
    if config.model.batch_norm == "calibrated":
        bank = material.banks.photographs
        order = epoch_indices(bank.num, CALIBRATION_BATCH, config.train.seed, epoch=0)
        regressor.calibrate(bank.batch(index.to(device)) for index in order)
    average = copy.deepcopy(regressor) if config.train.ema_decay else None
    return build_learner(regressor, average, config, device)


@contextmanager
def _progress(material: Material, config: Config, done: Progress) -> Iterator[log.Ticker]:
    num = material.banks.photographs.num
    with log.progress(f"training on {num} photographs", config.train.epochs, "epochs") as tick:
        if done.epochs_done:
            tick(done.epochs_done)
        yield tick


@contextmanager
def _private_random_state(device: torch.device) -> Iterator[None]:
    """Dropout draws from torch's global generators; give them back as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        yield
