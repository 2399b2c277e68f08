"""An epoch, as the loop runs it, asks the device for nothing until its losses are read.

A CPU has nobody to wait for, but the same operators are called that would wait on a GPU: reading a
number, choosing rows by a mask. They are counted.
"""

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rap import log
from rap.camera import Camera
from rap.config import Config, LossWeights, ViewsConfig
from rap.data.images import ImageBank
from rap.scene import Scene
from rap.splat.gaussians import Gaussians
from rap.synthesis import views
from rap.synthesis.drawing import Shots
from rap.train import banks, loop
from rap.train.banks import prepare
from rap.train.distributed import Ranks
from rap.train.execution import Runner
from rap.train.inputs import Inputs
from rap.train.state import Progress

NUM_STEPS, MAX_ATTEMPTS = 2, 3


def ranks_that_end(watching: contextlib.ExitStack) -> Callable[[], Ranks]:
    """A lone rank that stops watching when losses are averaged: then the host may read them."""

    class Watched(Ranks):
        def mean(self, values: Tensor) -> Tensor:
            watching.close()
            return values

    return Watched


def blank(_: Gaussians, camera: Camera, shots: Shots, config: ViewsConfig) -> tuple[Tensor, Tensor]:
    """Views without a renderer, half of which the filter rejects: gsplat waits on its own."""
    num, device = len(shots.world_from_camera), shots.world_from_camera.device
    images = torch.zeros(num, 3, camera.height, camera.width, dtype=torch.uint8, device=device)
    return images, torch.arange(num, device=device) % 2 * 1.0


@pytest.fixture
def epoch_on(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Callable[[int], dict[str, object]]]:
    """Makes the function that runs one epoch: all terms, augmented, averaged, clipped."""
    monkeypatch.setattr(views, "draw_images", blank)
    monkeypatch.setattr(banks, "draw_images", blank)
    # An index in host memory is checked; a GPU's, which all are there, is not.
    monkeypatch.setattr(ImageBank, "_checked", lambda _, index: index)

    def make(device: torch.device, stream: int, **train: Any) -> Callable[[int], dict[str, object]]:  # noqa: ANN401
        config = replace(
            tiny_config, weights=LossWeights(1.0, 1.0, 1.0, 1.0, 0.7),
            views=ViewsConfig(min_coverage=0.5, max_attempts=MAX_ATTEMPTS, refresh_epochs=5,
                              stream_per_step=stream),
            train=replace(tiny_config.train, augment=1.0, ema_decay=0.9, grad_clip=1.0, **train),
        )  # fmt: skip
        material = prepare(tiny_scene, tiny_splat, config, device)
        learner = loop.new_learner(material, config, device)
        runner = Runner(learner, config, device)
        inputs = Inputs(learner.regressor, material, config)

        def run(epoch: int) -> dict[str, object]:
            with log.progress("", 9, "epochs") as tick:
                return loop._epoch(runner, inputs, material, config, epoch, Progress(), tick)

        return run

    return make


def test_an_epoch_reads_nothing_back(
    epoch_on: Callable[..., Any],
    watched: Callable[[], AbstractContextManager[Counter[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for views drawn beside the steps: each attempt asks once how many rows are left."""
    run = epoch_on(torch.device("cpu"), stream=4)
    with contextlib.ExitStack() as watching:
        monkeypatch.setattr(loop, "current", ranks_that_end(watching))
        found = watching.enter_context(watched())
        assert run(1)["epoch"] == 1
    assert dict(found) == {"tolist": MAX_ATTEMPTS * NUM_STEPS}


@pytest.mark.cuda
@pytest.mark.parametrize(("stream", "most"), [(0, 0), (4, MAX_ATTEMPTS * NUM_STEPS)])
def test_an_epoch_on_a_gpu_waits_for_its_views_alone(
    epoch_on: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, stream: int, most: int
) -> None:
    """Steps replayed as one graph; each attempt waits once, for how many views are left."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    run = epoch_on(torch.device("cuda"), stream=stream, execution="graphed")
    assert run(0)["epoch"] == 0  # records the step
    with contextlib.ExitStack() as watching:
        monkeypatch.setattr(loop, "current", ranks_that_end(watching))
        waits = watching.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        watching.callback(torch.cuda.set_sync_debug_mode, "default")
        run(1)
    told = [f"{w.filename}:{w.lineno}" for w in waits if "synchroniz" in str(w.message)]
    assert len(told) <= most, told
