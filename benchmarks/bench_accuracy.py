"""Does training still learn? Short trainings with fixed seeds, scored on the test frames."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import workloads
from benchmarks.harness import Measure
from benchmarks.workloads import CPU_SCALE
from rap.config import Config, Execution
from rap.data.images import decode
from rap.evaluate import (
    PoseErrors,
    constant_mean_pose,
    load_run,
    pose_errors,
    predict,
    score,
    summarise,
)
from rap.scene import poses
from rap.train.loop import train

MAX_SHARE = 0.6
"""Of the score of always answering the mean pose; what has learnt nothing scores about 1."""
NEAR_M, NEAR_DEG = 0.5, 15.0
"""Within which a frame counts as recalled: these trainings take seconds."""
TARGET_SCORE = 30.0
"""Of held-out photographs, by `rap.evaluate.score`: 70 in the first epochs, 25 in the last."""
TARGET_EPOCHS = 16
TARGET_SEED = 2


def bench_accuracy(
    measure: Measure, tmp_path: Path, device: torch.device, bench_scene: str,
    bench_seeds: tuple[int, ...],
) -> None:  # fmt: skip
    """Well ahead of the mean pose; small images on every device alike."""
    scene = workloads.scene(bench_scene, CPU_SCALE.room)
    gaussians = workloads.splat(scene, CPU_SCALE.num_gaussians["small"], 0, device)
    camera = scene.camera.with_height(CPU_SCALE.image_height)
    images, true = decode(scene.test, camera, num_workers=0), poses(scene.test)

    def learn(seed: int) -> PoseErrors:
        config = workloads.accuracy_config(CPU_SCALE, seed)
        # Steps of a small network are all launches on a GPU: recorded, they take a tenth.
        way: Execution = "graphed" if device.type == "cuda" else "eager"
        config = replace(config, train=replace(config.train, execution=way))
        best = train(scene, gaussians, config, tmp_path / str(seed), device)
        return pose_errors(predict(load_run(best, device).regressor, images, device), true)

    # Untimed, one training shows that it works.
    seeds = bench_seeds if measure.timed else bench_seeds[:1]
    result = measure(lambda: [learn(seed) for seed in seeds], rounds=1)

    summaries = [summarise(errors) for errors in result.value]
    result.accuracy("median_translation_m", [s.median_translation_m for s in summaries])
    result.accuracy("median_rotation_deg", [s.median_rotation_deg for s in summaries])
    result.accuracy("recall_share", [recall(errors) for errors in result.value])
    worst = max(map(score, result.value))
    share = worst / score(constant_mean_pose(poses(scene.train), true))
    result.check(share < MAX_SHARE, f"{share:.0%} of the mean pose's score")


def recall(errors: PoseErrors) -> float:
    """Share of the frames that are near in both."""
    near = (errors.translation_m <= NEAR_M) & (errors.rotation_deg <= NEAR_DEG)
    return float(near.double().mean())


def bench_time_to_target(
    measure: Measure, tmp_path: Path, device: torch.device, bench_scene: str
) -> None:
    """Seconds of training until held-out photographs are located this well."""
    scene = workloads.scene(bench_scene, CPU_SCALE.room)
    gaussians = workloads.splat(scene, CPU_SCALE.num_gaussians["small"], 0, device)

    def learn() -> list[tuple[float, float]]:
        train(scene, gaussians, target_config(TARGET_SEED), tmp_path / "run", device)
        lines = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        return [(record["seconds"], record["validation_score"]) for record in records]

    result = measure(learn, rounds=1)
    needed = seconds_to(TARGET_SCORE, result.value)
    best = min(reached for _, reached in result.value)
    result.check(needed is not None, f"the best score is {best:.0f}, not {TARGET_SCORE:.0f}")
    if needed is not None:
        result.metric("to_target_s", needed)


def target_config(seed: int) -> Config:
    """The short training at a constant rate, so that it improves from the first epoch on."""
    config = workloads.accuracy_config(CPU_SCALE, seed)
    steady = replace(
        config.train, schedule="constant", epochs=TARGET_EPOCHS, validation_fraction=0.25
    )
    return replace(config, train=steady)


def seconds_to(target: float, epochs: list[tuple[float, float]]) -> float | None:
    """Training time until the end of the first epoch at or below a score; None: never."""
    total = 0.0
    for seconds, reached in epochs:
        total += seconds
        if reached <= target:
            return total
    return None
