"""What a step will need is predicted from shapes, and running out of memory becomes advice."""

import copy
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxtyping
import pytest
import torch

from rap.camera import Camera
from rap.config import Config, LossWeights, ModelConfig, Precision, TrainConfig
from rap.model.regressor import Regressor, build_regressor
from rap.scene import Scene
from rap.train import execution, loop, memory
from rap.train.batches import Batch
from rap.train.errors import TrainingError
from rap.train.execution import Runner
from rap.train.footprint import Alive, footprint
from rap.train.loop import train
from rap.train.memory import (
    GIB,
    TOLERANCE,
    announce,
    out_of_memory_explained,
    predicted_bytes,
)  # fmt: skip
from rap.train.step import build_learner, step

CAMERA = Camera(50.0, 50.0, 32.0, 24.0, 64, 48)
ALL_TERMS = LossWeights(1.0, 1.0, 1.0, 1.0, 0.7)


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shape checks take most of the time of a step without values."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def changed(config: Config, **train_settings: Any) -> Config:  # noqa: ANN401 (any setting)
    """All terms, with other training settings."""
    settings: dict[str, Any] = {"batch_size": 8, **train_settings}
    return replace(short(config), weights=ALL_TERMS, train=replace(config.train, **settings))


def short(config: Config) -> Config:
    """With a trunk of three blocks and encoders of one layer, which run soon."""
    return replace(
        config, model=replace(config.model, translation_level=2, rotation_level=2, layers=1)
    )


@pytest.mark.parametrize("saving", [{}, {"checkpointing": True, "micro_batches": 2}], ids=str)
def test_shapes_alone_tell_what_a_real_step_holds(
    tiny_config: Config, saving: dict[str, Any]
) -> None:
    """Tensors with values are as many bytes at the peak, and as many after it."""
    config = changed(tiny_config, ema_decay=0.9, **saving)
    found = footprint(config, 48, 64)
    regressor = build_regressor(config.model, seed=0)
    learner = build_learner(regressor, copy.deepcopy(regressor), config, torch.device("cpu"))
    with Alive() as alive:
        for network in (learner.regressor, learner.average, learner.discriminator):
            assert network is not None
            alive.follow([*network.parameters(), *network.buffers()])
        images = torch.rand(24, 3, 48, 64)
        batch = Batch(images, torch.eye(4).repeat(24, 1, 1), {"pose": 8, "rendered": 8, "view": 8})
        for _ in range(2):
            step(learner, batch, config)
    assert found.peak == pytest.approx(alive.peak, rel=0.02)
    assert found.images == images.nbytes
    weights = sum(p.nbytes for p in regressor.parameters())
    # Weights and average, and two moments of what is trained.
    trained = sum(p.nbytes for p in regressor.parameters() if p.requires_grad)
    assert found.state > 2 * weights + 2 * trained


def test_a_tensor_counts_once_and_until_it_ends() -> None:
    """Views are part of it; sizes are rounded up as the allocator does; the peak remains."""
    with Alive() as alive:
        first = torch.zeros(2**18 + 1)
        part = first[5:].view(-1)
        assert (alive.now, alive.num_large) == (2**20 + 512, 1)
        second = torch.zeros(100)
        del first
        assert alive.now == 2**20 + 512 + 512  # the part holds all of it
        del part, second
        assert alive.now == 0
    assert alive.peak == 2**20 + 1024


@pytest.mark.slow
def test_many_micro_batches_are_as_two(tiny_config: Config) -> None:
    """Half as many images at once need less, in proportion; a third part needs nothing new."""
    of = [footprint(changed(tiny_config, micro_batches=num), 48, 64) for num in (2, 4)]
    kept = [found.peak - found.state - found.images for found in of]
    assert kept[1] < 0.7 * kept[0]


def test_a_network_that_reads_values_is_not_predicted(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line says so, the training goes on, and out of memory still gets its advice."""
    forward = Regressor.forward

    def reading(self: Regressor, images: torch.Tensor, *rest: Any, **named: Any) -> Any:  # noqa: ANN401 (those of forward)
        assert float(images.sum()) >= 0
        return forward(self, images, *rest, **named)

    monkeypatch.setattr(Regressor, "forward", reading)
    config = changed(tiny_config, grad_clip=3.0, ema_decay=0.5)  # that no other test asks for
    announce(config, CAMERA, torch.device("cuda"))
    said = capsys.readouterr().err
    assert "the memory of a step is not predicted" in said
    assert "model.backbone = 'b0' does not run on shapes alone" in said
    advice = memory._advice(config, CAMERA)
    assert "train.checkpointing = true" in advice
    assert "GiB" not in advice


@pytest.mark.slow
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


@pytest.mark.slow
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
@pytest.mark.slow
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
        train(tiny_scene, None, replace(short(tiny_config), weights=weights), tmp_path / "run",
              torch.device("cpu"))  # fmt: skip
    text = str(caught.value)
    for part in ("CUDA out of memory", 'train.precision = "bf16" (', "train.checkpointing = true (",
                 "train.micro_batches = 2 (", "train.micro_batches = 4 (", "GiB"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                      "allocate memory: you tried to allocate 51202560000 bytes. Error code 12"),
         r"the host's memory does not suffice \(no 47\.7 GiB at once\); lower image\.height"),
        (MemoryError("Unable to allocate 711. PiB"), r"suffice \(Unable to .* PiB\); lower"),
    ],
    ids=["torch", "numpy"],
)  # fmt: skip
def test_running_out_of_host_memory_is_advice_too(
    tiny_config: Config, error: Exception, said: str
) -> None:
    """As on a CPU: torch's allocator raises a plain RuntimeError there, numpy a MemoryError."""
    with pytest.raises(TrainingError, match=said), out_of_memory_explained(tiny_config, CAMERA):
        raise error


def test_other_errors_keep_their_traceback(tiny_config: Config) -> None:
    """Only memory is explained."""
    with (
        pytest.raises(RuntimeError, match="shapes do not fit"),
        out_of_memory_explained(tiny_config, CAMERA),
    ):
        raise RuntimeError("shapes do not fit")


def test_images_that_no_host_can_hold_are_refused_before_one_is_read(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a real allocation takes decides, so that as much as is needed is enough."""
    views = replace(tiny_config.views, per_image=8)
    config = replace(tiny_config, views=views, weights=LossWeights(1.0, 1.0, 1.0, 0.0, 0.0))
    each = 3 * CAMERA.width * CAMERA.height
    # of ten photographs eight are trained on, and have a rendering and eight views each
    need = (10 + 8 + 8 + 8 + 64) * each
    monkeypatch.setattr(memory, "host_free_bytes", lambda: need)
    memory.check_host_memory(10, CAMERA, config, torch.device("cpu"))
    monkeypatch.setattr(memory, "host_free_bytes", lambda: need - 1)
    on_gpu = replace(config, image=replace(config.image, device_budget_gib=1.0))
    memory.check_host_memory(10, CAMERA, on_gpu, torch.device("cuda"))
    monkeypatch.setattr(loop, "prepare", lambda *_: pytest.fail("images were read"))
    with pytest.raises(TrainingError, match=r"10 photographs of 64x48 pixels.*lower image\.height"):
        train(tiny_scene, None, config, tmp_path / "run", torch.device("cpu"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
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
    """At the published size, a plain step; within the stated tolerance."""
    device, camera = torch.device("cuda"), Camera(300.0, 300.0, 160.0, 120.0, 320, 240)
    config = Config(
        model=ModelConfig(dropout=0.0, drop_connect=0.0), weights=ALL_TERMS,
        train=TrainConfig(batch_size=8, precision=precision, **saving),
    )  # fmt: skip
    torch.cuda.empty_cache()
    torch._C._cuda_clearCublasWorkspaces()  # of other tests
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
    assert abs(found - need) < TOLERANCE * need, (
        f"{need / GIB:.2f} predicted, {found / GIB:.2f} GiB"
    )
