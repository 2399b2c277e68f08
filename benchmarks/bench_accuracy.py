"""Does training still learn? Short trainings with fixed seeds, scored on the test frames."""

from pathlib import Path

import torch

from benchmarks import workloads
from benchmarks.harness import Measure
from benchmarks.workloads import CPU_SCALE
from rap.data.images import decode
from rap.evaluate import constant_mean_pose, load_run, pose_errors, predict, score, summarise
from rap.scene import poses
from rap.train.loop import train

SEEDS = (1, 2, 3)
MAX_SHARE = 0.6
"""Of the score of always answering the mean pose; what has learnt nothing scores about 1."""


def bench_accuracy(
    measure: Measure, tmp_path: Path, device: torch.device, bench_scene: str
) -> None:
    """Well ahead of the mean pose; small images on every device alike."""
    scene = workloads.scene(bench_scene, CPU_SCALE.room)
    gaussians = workloads.splat(scene, CPU_SCALE.num_gaussians["small"], 0, device)
    camera = scene.camera.with_height(CPU_SCALE.image_height)
    images, true = decode(scene.test, camera, num_workers=0), poses(scene.test)

    def learn(seed: int) -> tuple[float, float, float]:
        config = workloads.accuracy_config(CPU_SCALE, seed)
        best = train(scene, gaussians, config, tmp_path / str(seed), device)
        errors = pose_errors(predict(load_run(best, device).regressor, images, device), true)
        summary = summarise(errors)
        return summary.median_translation_m, summary.median_rotation_deg, score(errors)

    # Untimed, one training shows that it works.
    seeds = SEEDS if measure.timed else SEEDS[:1]
    result = measure(lambda: [learn(seed) for seed in seeds], rounds=1)

    translation_m, rotation_deg, scores = zip(*result.value, strict=True)
    result.accuracy("median_translation_m", translation_m)
    result.accuracy("median_rotation_deg", rotation_deg)
    share = max(scores) / score(constant_mean_pose(poses(scene.train), true))
    result.check(share < MAX_SHARE, f"{share:.0%} of the mean pose's score")
