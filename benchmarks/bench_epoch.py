"""Whole epochs of training, checkpoints included; only how views come differs."""

import gc
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from benchmarks import filters, workloads
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import Scale
from rap.config import Config, ViewsConfig
from rap.model import checkpoint
from rap.model.regressor import build_regressor
from rap.scene import Scene, poses
from rap.train.batches import Batch
from rap.train.execution import Runner
from rap.train.loop import train
from rap.train.step import Terms

NUM_PHOTOGRAPHS = 4
NUM_EPOCHS = 20
Log = list[dict[str, float]]


def by_default(refresh_epochs: int | str, per_image: int, view_filter: str) -> bool:
    """The ends of the refresh rate."""
    return refresh_epochs in (1, 20) and (per_image, view_filter) == (2, "none")


def possible(refresh_epochs: int | str, per_image: int, view_filter: str) -> bool:
    """Filters where views are drawn often, seldom and beside the steps."""
    return view_filter == "none" or (per_image == 2 and refresh_epochs in (1, 20, "stream"))


CASES = [case for case in combine(
    axis([1, 2, 5, 20, "stream"]), axis([2], full=[1, 8]), axis(list(filters.FILTERS)),
    default=by_default,
) if possible(*case.values)]  # fmt: skip


@pytest.mark.parametrize(("refresh_epochs", "per_image", "view_filter"), CASES)
def bench_epoch(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: torch.device,
    scale: Scale, scene: Scene,
    refresh_epochs: int | str, per_image: int, view_filter: str,
) -> None:  # fmt: skip
    """Twenty epochs of one step each; the log counts the refreshes, and what passed the filter.

    The step before them is looked into: it saw every photograph; at the end all weights have moved.
    `stream` draws as many views beside each step as every refresh draws at once.
    """
    num_views = per_image * NUM_PHOTOGRAPHS
    streamed = num_views if refresh_epochs == "stream" else 0
    every = NUM_EPOCHS if isinstance(refresh_epochs, str) else refresh_epochs
    few = replace(scene, train=workloads.thinned(scene.train, NUM_PHOTOGRAPHS))
    gaussians = workloads.splat(scene, scale.num_gaussians["small"], scale.sh_degree, device)
    if view_filter == "brisque":
        filters.with_stand_in(monkeypatch)
    views = filters.filtered(
        ViewsConfig(per_image=per_image, refresh_epochs=every, stream_per_step=streamed),
        view_filter, gaussians, scene.camera.with_height(scale.image_height),
        poses(scene.train).float().to(device),
    )  # fmt: skip
    config = workloads.training_config(scale)
    config = replace(
        config,
        views=views,
        train=replace(
            config.train, epochs=NUM_EPOCHS, batch_size=NUM_PHOTOGRAPHS, validation_fraction=0.0
        ),
    )
    warm_up = replace(config, train=replace(config.train, epochs=1))
    with monkeypatch.context() as watched:
        batches = batches_of(watched)
        train(few, gaussians, warm_up, tmp_path / "warm-up", device)
    used = photographs_in(batches, few, scale)
    del batches
    gc.collect()
    run = tmp_path / "run"

    def epochs() -> Log:
        train(few, gaussians, config, run, device)
        return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]

    result = measure(epochs, items=NUM_EPOCHS, unit="epochs", rounds=1)

    log = result.value
    result.check([record["epoch"] for record in log] == list(range(NUM_EPOCHS)), "epochs missing")
    refreshed = [record["epoch"] for record in log if "views_rendered" in record]
    expected = list(range(0, NUM_EPOCHS, every))
    result.check(refreshed == expected, f"views were redrawn in epochs {refreshed}")
    beside = {record.get("views_streamed", 0) for record in log}
    result.check(beside == {streamed}, f"{beside} views were drawn beside a step")
    drawn = list(draws(log))
    result.metric("acceptance_share", fmean(acceptance for _, acceptance in drawn))
    result.metric("renders_per_view", sum(num for num, _ in drawn) / (num_views * len(drawn)))
    for ok, message in as_filtered(drawn, num_views, view_filter):
        result.check(ok, message)
    idle = unmoved(run / "last.safetensors", config, device)
    for ok, message in learnt(log, used, idle):
        result.check(ok, message)


def learnt(log: Log, used: list[int], idle: list[str]) -> Iterator[tuple[bool, str]]:
    """Whether steps had all terms and photographs, and moved all weights; what to say if not."""
    everything = list(range(NUM_PHOTOGRAPHS))
    yield used == everything, f"an epoch read photographs {used} instead of {everything}"
    yield not idle, f"weights that {NUM_EPOCHS} steps have not moved: {', '.join(idle[:3])}"
    terms = [value for record in log for name, value in record.items() if name.startswith("loss_")]
    yield len(terms) == 5 * NUM_EPOCHS, f"{len(terms)} terms in {NUM_EPOCHS} epochs"
    yield all(map(math.isfinite, terms)), "a loss is not finite"


def batches_of(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """What steps are given from now on."""
    given: list[Batch] = []
    original = Runner.__call__

    def watched(self: Runner, batch: Batch, lr_factor: float) -> Terms:
        images, poses = batch.images.clone(), batch.world_from_camera.clone()
        given.append(replace(batch, images=images, world_from_camera=poses))
        return original(self, batch, lr_factor)

    monkeypatch.setattr(Runner, "__call__", watched)
    return given


def photographs_in(batches: list[Batch], scene: Scene, scale: Scale) -> list[int]:
    """Which of a scene's photographs batches hold, each as often as it comes, by look and pose."""
    photos = workloads.photographs(scene, scale.image_height).float() / 255
    true, found = poses(scene.train).float(), []
    for batch in batches:
        num = batch.sizes["pose"]
        for image, pose in zip(batch.images[:num], batch.world_from_camera[:num], strict=True):
            off = (photos - image.cpu()).abs().mean(dim=(1, 2, 3))
            off += (true - pose.cpu()).abs().amax(dim=(1, 2))
            found.append(int(off.argmin()))
    return sorted(found)


def unmoved(path: Path, config: Config, device: torch.device) -> list[str]:
    """Trained weights of a checkpoint that are as they began."""
    learnt = dict(checkpoint.load(path, device).regressor.named_parameters())
    begin = build_regressor(config.model, config.train.seed).named_parameters()
    return [name for name, value in begin
            if value.requires_grad and learnt[name].detach().cpu().equal(value)]  # fmt: skip


def draws(log: Log) -> Iterator[tuple[float, float]]:
    """Renders and the share of them that passed: of each refresh, and of each step's stream."""
    for record in log:
        for kind in ("views", "streamed"):
            if f"{kind}_rendered" in record:
                yield record[f"{kind}_rendered"], record[f"{kind}_acceptance"]


def as_filtered(
    drawn: list[tuple[float, float]], num_views: int, view_filter: str
) -> Iterator[tuple[bool, str]]:
    """Whether the filter did what its name says, and what to say if not."""
    rendered = {num for num, _ in drawn}
    if view_filter == "none":
        yield rendered == {num_views}, f"{rendered} views were rendered at a time"
        yield {share for _, share in drawn} == {1.0}, "views were rejected without a filter"
        return
    yield min(rendered) >= num_views, f"{min(rendered)} views were rendered instead of {num_views}"
    share = fmean(passed for _, passed in drawn)
    yield share > 0.02, f"{share:.0%} of the views passed"
    # A single refresh of a few views may pass as it is.
    if len(drawn) * num_views >= 32:
        yield max(rendered) > num_views, "no view was drawn again: the filter decides nothing"
        yield share < 1, "every view passed"
