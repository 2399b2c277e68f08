"""Smaller networks on smaller images: the error of a short training beside latency."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import workloads
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import CPU_SCALE, SEED
from rap.data.images import decode
from rap.evaluate import (
    constant_mean_pose,
    load_run,
    pose_errors,
    predict,
    score,
    summarise,
)
from rap.scene import poses
from rap.train.loop import train

EPOCHS = {"cpu": 18, "cuda": 200}
"""About half a minute for the largest network, on a core or on a GPU."""
MAX_SHARE = 0.8
"""Of the score of always answering the mean pose."""


@pytest.mark.parametrize(
    ("backbone", "layers", "height"),
    combine(
        axis(["b0", "b2"]), axis([1, 3, 6]), axis([48], cuda=[96]), default=lambda *_: False,
    ),
)  # fmt: skip
def bench_pareto(
    measure: Measure, tmp_path: Path, device: torch.device, bench_scene: str,
    backbone: str, layers: int, height: int,
) -> None:  # fmt: skip
    """One training of one seed, scored on the test frames; timed is one image through it."""
    scene = workloads.scene(bench_scene, CPU_SCALE.room)
    gaussians = workloads.splat(scene, CPU_SCALE.num_gaussians["small"], 0, device)
    config = workloads.accuracy_config(CPU_SCALE, SEED)
    config = replace(
        config,
        image=replace(config.image, height=height),
        model=replace(config.model, backbone=backbone, layers=layers),
        train=replace(config.train, epochs=EPOCHS[device.type]),
    )
    best = train(scene, gaussians, config, tmp_path / "run", device)
    lines = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    loaded = load_run(best, device)
    images = decode(scene.test, loaded.camera, num_workers=0).to(device)
    true = poses(scene.test)
    errors = pose_errors(predict(loaded.regressor, images, device), true)

    result = measure(lambda: predict(loaded.regressor, images[:1], device, batch_size=1))

    alone = pose_errors(result.value, true[:1])
    off = float((alone.translation_m - errors.translation_m[:1]).abs())
    result.check(off < 1e-3, f"one image alone is located {off:.1e} m from where it is in a batch")
    built = loaded.regressor.config
    shape = (built.backbone, built.layers, images.shape[2])
    result.check(shape == (backbone, layers, height), f"trained was {shape}")
    summary = summarise(errors)
    result.metric("median_translation_m", summary.median_translation_m)
    result.metric("median_rotation_deg", summary.median_rotation_deg)
    result.metric("training_s", sum(json.loads(line)["seconds"] for line in lines))
    share = score(errors) / score(constant_mean_pose(poses(scene.train), true))
    result.check(share < MAX_SHARE, f"{share:.0%} of the mean pose's score")
