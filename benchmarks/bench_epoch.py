"""Whole epochs of training, checkpoints included; only the refresh rate of the views differs."""

import gc
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import workloads
from benchmarks.harness import Measure, axis
from benchmarks.workloads import Scale
from rap.config import ViewsConfig
from rap.scene import Scene
from rap.train.loop import train

NUM_PHOTOGRAPHS = 4
PER_IMAGE = 2
NUM_EPOCHS = 20


@pytest.mark.parametrize("refresh_epochs", axis([1, 20], full=[2, 5, "stream"]))
def bench_epoch(
    measure: Measure, tmp_path: Path, device: torch.device, scale: Scale, scene: Scene,
    refresh_epochs: int | str,
) -> None:  # fmt: skip
    """Twenty epochs of one step each; the log counts the refreshes.

    `stream` draws as many views beside each step as every refresh draws at once.
    """
    streamed = PER_IMAGE * NUM_PHOTOGRAPHS if refresh_epochs == "stream" else 0
    every = NUM_EPOCHS if isinstance(refresh_epochs, str) else refresh_epochs
    few = replace(scene, train=workloads.thinned(scene.train, NUM_PHOTOGRAPHS))
    gaussians = workloads.splat(scene, scale.num_gaussians["small"], scale.sh_degree, device)
    config = workloads.training_config(scale)
    config = replace(
        config,
        views=ViewsConfig(
            per_image=PER_IMAGE, refresh_epochs=every, stream_per_step=streamed, min_coverage=0.0
        ),
        train=replace(
            config.train, epochs=NUM_EPOCHS, batch_size=NUM_PHOTOGRAPHS, validation_fraction=0.0
        ),
    )
    warm_up = replace(config, train=replace(config.train, epochs=1))
    train(few, gaussians, warm_up, tmp_path / "warm-up", device)
    gc.collect()
    run = tmp_path / "run"

    def epochs() -> list[dict[str, float]]:
        train(few, gaussians, config, run, device)
        return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]

    result = measure(epochs, items=NUM_EPOCHS, unit="epochs", rounds=1)

    log = result.value
    result.check([record["epoch"] for record in log] == list(range(NUM_EPOCHS)), "epochs missing")
    refreshed = [record["epoch"] for record in log if "views_rendered" in record]
    expected = list(range(0, NUM_EPOCHS, every))
    result.check(refreshed == expected, f"views were redrawn in epochs {refreshed}")
    rendered = {record["views_rendered"] for record in log if "views_rendered" in record}
    result.check(
        rendered == {PER_IMAGE * NUM_PHOTOGRAPHS}, f"{rendered} views were rendered per refresh"
    )
    beside = {record.get("views_streamed", 0) for record in log}
    result.check(beside == {streamed}, f"{beside} views were drawn beside a step")
    terms = [value for record in log for name, value in record.items() if name.startswith("loss_")]
    result.check(len(terms) == 5 * NUM_EPOCHS, f"{len(terms)} terms in {NUM_EPOCHS} epochs")
    result.check(all(map(math.isfinite, terms)), "a loss is not finite")
