"""Does training still learn? Short trainings with fixed seeds, scored on the test frames."""

from pathlib import Path

import torch

from benchmarks import workloads
from benchmarks.harness import Measure
from benchmarks.workloads import CPU_SCALE
from rap.data.images import decode
from rap.evaluate import constant_mean_pose, load_run, pose_errors, predict, summarise
from rap.scene import poses
from rap.train.loop import train

SEEDS = (1, 2, 3)
MAX_SHARE = 0.7
"""Of the errors of always answering the mean pose; unlearnt weights score about 1."""
NUM_FRAMES = 48


def bench_accuracy(
    measure: Measure, tmp_path: Path, device: torch.device, bench_scene: str
) -> None:
    """Median errors well below those of the mean pose; small images on every device alike."""
    scene = workloads.scene(bench_scene, CPU_SCALE.room)
    gaussians = workloads.splat(scene, CPU_SCALE.num_gaussians["small"], 0, device)
    camera = scene.camera.with_height(CPU_SCALE.image_height)
    images, true = decode(scene.test, camera, num_workers=0), poses(scene.test)

    def learn(seed: int) -> tuple[float, float]:
        config = workloads.accuracy_config(CPU_SCALE, seed)
        best = train(scene, gaussians, config, tmp_path / str(seed), device)
        estimates = predict(load_run(best, device).regressor, images, device)
        summary = summarise(pose_errors(estimates, true))
        return summary.median_translation_m, summary.median_rotation_deg

    # Untimed, one training shows that it works.
    seeds = SEEDS if measure.timed else SEEDS[:1]
    result = measure(lambda: [learn(seed) for seed in seeds], rounds=1)

    translation_m, rotation_deg = zip(*result.value, strict=True)
    result.accuracy("median_translation_m", translation_m)
    result.accuracy("median_rotation_deg", rotation_deg)
    mean_pose = summarise(constant_mean_pose(poses(scene.train), true))
    for name, found, baseline in (
        ("translation", translation_m, mean_pose.median_translation_m),
        ("rotation", rotation_deg, mean_pose.median_rotation_deg),
    ):
        share = max(found) / baseline
        result.check(share < MAX_SHARE, f"{name}: {share:.0%} of the mean pose's error")
