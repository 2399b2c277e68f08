"""What a step will need is predicted from shapes, and running out of memory becomes advice."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from rap.camera import Camera
from rap.config import Config, LossWeights, ModelConfig, Precision, TrainConfig
from rap.model.regressor import build_regressor
from rap.scene import Scene
from rap.train import execution, loop, memory
from rap.train.batches import Batch
from rap.train.errors import TrainingError
from rap.train.execution import Runner
from rap.train.loop import train
from rap.train.memory import GIB, announce, kept_bytes, predicted_bytes
from rap.train.step import build_learner

CAMERA = Camera(50.0, 50.0, 32.0, 24.0, 64, 48)
ALL_TERMS = LossWeights(1.0, 1.0, 1.0, 1.0, 0.7)


def changed(config: Config, **train_settings: Any) -> Config:  # noqa: ANN401 (any setting)
    """All terms, with other training settings."""
    settings: dict[str, Any] = {"batch_size": 8, **train_settings}
    return replace(config, weights=ALL_TERMS, train=replace(config.train, **settings))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_shapes_alone_tell_what_is_kept(tiny_config: Config, precision: Precision) -> None:
    """A real forward pass keeps as many bytes for each image more."""
    model = tiny_config.model
    found = kept_bytes(model, precision, 48, 64, with_features=True)
    network = build_regressor(model, seed=0).train()
    counts = []
    for num in (1, 2):
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        with memory._counting(network) as count, autocast:
            network(torch.rand(num, 3, 48, 64), with_features=True)
        counts.append(count()[0])
    assert found.whole == pytest.approx(counts[1] - counts[0], rel=0.02)
    assert found.num_parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ({"batch_size": 16}, {"batch_size": 8}),
        ({"precision": "fp32"}, {"precision": "bf16"}),
        ({"checkpointing": False}, {"checkpointing": True}),
        ({"micro_batches": 1}, {"micro_batches": 2}),
        ({"micro_batches": 2, "checkpointing": True}, {"micro_batches": 4, "checkpointing": True}),
        ({"ema_decay": 0.9}, {"ema_decay": 0.0}),
        ({"execution": "graphed"}, {"execution": "eager"}),
    ],
    ids=str,
)
def test_what_costs_memory_is_predicted_to(
    tiny_config: Config, more: dict[str, Any], less: dict[str, Any]
) -> None:
    """Every setting that the advice names, and those that cost."""
    a, b = (predicted_bytes(changed(tiny_config, **s), CAMERA) for s in (more, less))
    assert a > b


def test_larger_images_need_more(tiny_config: Config) -> None:
    """In proportion to their pixels at least, without what does not depend on images."""
    config = changed(tiny_config)
    empty = predicted_bytes(replace(config, train=replace(config.train, batch_size=2)), CAMERA)
    small = predicted_bytes(config, CAMERA) - empty
    large_camera = Camera(100.0, 100.0, 64.0, 48.0, 128, 96)
    of_two = predicted_bytes(
        replace(config, train=replace(config.train, batch_size=2)), large_camera
    )
    assert predicted_bytes(config, large_camera) - of_two > 3.5 * small


@pytest.mark.parametrize(("owner", "name"), [(execution, "optimise"), (loop, "prepare")])
def test_running_out_of_memory_names_what_helps(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    owner: ModuleType, name: str,
) -> None:  # fmt: skip
    """One error: precision, checkpointing and micro-batches, each with its prediction."""

    def exhausted(*_: object, **_named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(owner, name, exhausted)
    weights = replace(tiny_config.weights, view=0.0)
    with pytest.raises(TrainingError) as caught:
        train(tiny_scene, None, replace(tiny_config, weights=weights), tmp_path / "run",
              torch.device("cpu"))  # fmt: skip
    text = str(caught.value)
    for part in ("CUDA out of memory", 'train.precision = "bf16" (', "train.checkpointing = true (",
                 "train.micro_batches = 2 (", "train.micro_batches = 4 (", "GiB"):  # fmt: skip
        assert part in text


def test_advice_holds_nothing_that_is_done_already(tiny_config: Config) -> None:
    """With everything on, only smaller batches or images are left."""
    config = changed(tiny_config, precision="bf16", checkpointing=True, micro_batches=4)
    assert "lower train.batch_size or image.height" in memory._advice(config, CAMERA)


def test_without_a_gpu_nothing_is_said(
    tiny_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """Host memory is another matter."""
    announce(tiny_config, CAMERA, torch.device("cpu"))
    assert capsys.readouterr().err == ""


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("saving", [{}, {"checkpointing": True, "micro_batches": 4}], ids=str)
def test_the_prediction_is_near_what_a_gpu_allocates(
    precision: Precision, saving: dict[str, Any]
) -> None:
    """At the published size, a plain step; within 40 %, and never told too little by more."""
    device, camera = torch.device("cuda"), Camera(300.0, 300.0, 160.0, 120.0, 320, 240)
    config = Config(
        model=ModelConfig(dropout=0.0, drop_connect=0.0), weights=ALL_TERMS,
        train=TrainConfig(batch_size=8, precision=precision, **saving),
    )  # fmt: skip
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    learner = build_learner(build_regressor(config.model, 0).to(device), None, config, device)
    images = torch.rand(24, 3, 240, 320, device=device)
    poses = torch.eye(4, device=device).repeat(24, 1, 1)
    runner = Runner(learner, config, device)
    for _ in range(2):
        runner(Batch(images, poses, {"pose": 8, "rendered": 8, "view": 8}), 1.0)
    found = torch.cuda.max_memory_allocated() - before
    need = predicted_bytes(config, camera)
    assert found / 1.4 < need < found * 1.4, f"{need / GIB:.2f} predicted, {found / GIB:.2f} GiB"
