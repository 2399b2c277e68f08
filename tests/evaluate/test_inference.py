"""Photographs to poses: batched as one by one, on any device, and refused where squeezed."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rap.camera import Camera
from rap.config import ConfigError
from rap.data.images import decode
from rap.evaluate import inference
from rap.evaluate.inference import load_run, localize, measure_latency, pick_device, predict
from rap.model.checkpoint import Checkpoint, save
from rap.scene import DataError, Scene


def test_batches_predict_what_single_images_do(
    scene: Scene, checkpoint: Checkpoint, device: torch.device
) -> None:
    """However images are batched, each gets the pose that it gets alone."""
    images = decode(scene.train, checkpoint.camera, num_workers=0)
    regressor = checkpoint.regressor.to(device)
    together = predict(regressor, images, device, batch_size=3)
    alone = torch.cat([predict(regressor, image[None], device) for image in images])
    assert together.shape == (5, 4, 4)
    assert together.dtype == torch.float64
    assert together.device.type == "cpu"
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_predicts_in_evaluation_mode_and_restores_training(
    scene: Scene, checkpoint: Checkpoint
) -> None:
    """Validation in the middle of training sees no dropout and leaves the mode as it was."""
    images = decode(scene.train, checkpoint.camera, num_workers=0)
    cpu = torch.device("cpu")
    expected = predict(checkpoint.regressor, images, cpu)
    checkpoint.regressor.train()
    torch.testing.assert_close(predict(checkpoint.regressor, images, cpu), expected)
    assert checkpoint.regressor.training


def test_no_images_give_no_poses(checkpoint: Checkpoint) -> None:
    """An empty batch is an empty answer."""
    nothing = torch.empty(0, 3, 24, 32, dtype=torch.uint8)
    assert predict(checkpoint.regressor, nothing, torch.device("cpu")).shape == (0, 4, 4)


def test_precision_is_a_real_switch(scene: Scene, checkpoint: Checkpoint) -> None:
    """bf16 changes the answer a little, and fp32 again gives the first one exactly."""
    images = decode(scene.train, checkpoint.camera, num_workers=0)
    cpu = torch.device("cpu")
    full = predict(checkpoint.regressor, images, cpu, precision="fp32")
    half = predict(checkpoint.regressor, images, cpu, precision="bf16")
    again = predict(checkpoint.regressor, images, cpu, precision="fp32")
    assert torch.equal(full, again)
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, atol=0.3, rtol=0)


def test_localize_reads_photographs_of_any_size(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A photograph is resized to the network's input, as the training's were."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    Image.fromarray(pixels).save(small)
    Image.fromarray(pixels).resize((128, 96), Image.Resampling.NEAREST).save(large)
    cpu = torch.device("cpu")
    poses = localize(checkpoint, [small, large, small], cpu)
    expected = predict(checkpoint.regressor, torch.tensor(pixels).permute(2, 0, 1)[None], cpu)
    torch.testing.assert_close(poses[:1], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(poses[1:2], expected, atol=0.05, rtol=0.05)
    torch.testing.assert_close(poses[2:], expected, atol=1e-5, rtol=1e-5)
    assert not torch.equal(poses[1], poses[2])
    assert localize(checkpoint, [], cpu).shape == (0, 4, 4)


def test_a_photograph_that_is_missing_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """It belongs to no scene, so nothing is to be removed from one."""
    with pytest.raises(DataError) as caught:
        localize(checkpoint, [tmp_path / "no.jpg"], torch.device("cpu"))
    assert str(caught.value) == f"{tmp_path / 'no.jpg'}: no such photograph"


def test_arithmetic_that_a_device_lacks_is_named_as_it_was_given(checkpoint: Checkpoint) -> None:
    """Nobody who localises has a setting train.precision."""
    with pytest.raises(ConfigError, match=r"^precision = 'tf32' needs a CUDA device"):
        localize(checkpoint, [], torch.device("cpu"), "tf32")


def test_localize_refuses_another_shape(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A portrait photograph would be squeezed: the error names file, size and what is accepted."""
    photo = tmp_path / "portrait.jpg"
    Image.new("RGB", (30, 40)).save(photo)
    with pytest.raises(DataError, match=r"portrait.jpg: 30x40 pixels; .* 32x24, .* 1.333"):
        localize(checkpoint, [photo], torch.device("cpu"))


def test_latency_counts_and_orders(
    checkpoint: Checkpoint, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Percentiles are ordered, and exactly the calls asked for are made, after warm-up."""
    monkeypatch.setattr(inference, "_MAX_TIMED_MS", math.inf)
    regressor = checkpoint.regressor.to(device)
    calls: list[int] = []

    def locate(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return regressor(images / 255).world_from_camera

    latency = measure_latency(locate, checkpoint.camera, device, batch_size=2, rounds=4)
    assert 0 < latency.p50_ms <= latency.p95_ms <= latency.p99_ms
    assert latency.throughput_per_s > 0
    assert latency.num_calls == 4
    assert calls == [1] * 7 + [2] * 7


def test_load_run_takes_a_folder_or_a_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A run directory means its best weights."""
    camera = Camera(30.0, 30.0, 16.0, 12.0, 32, 24)
    save(tmp_path / "best.safetensors", checkpoint.regressor, camera, {"seed": "3"})
    for run in (tmp_path, tmp_path / "best.safetensors"):
        loaded = load_run(run, torch.device("cpu"))
        assert (loaded.camera, loaded.provenance) == (camera, {"seed": "3"})


def test_missing_runs_are_named(tmp_path: Path) -> None:
    """A folder without a run, a run that is under way, and a file that is not there."""
    cpu = torch.device("cpu")
    with pytest.raises(DataError, match="holds no run; accepted: a run directory or a"):
        load_run(tmp_path, cpu)
    (tmp_path / "config.toml").touch()
    with pytest.raises(DataError, match=r"has not finished; resume with `rap train .* --resume`$"):
        load_run(tmp_path, cpu)
    (tmp_path / "last.safetensors").touch()
    with pytest.raises(DataError, match=r"--resume`, or score .*last\.safetensors$"):
        load_run(tmp_path, cpu)
    with pytest.raises(DataError, match=r"nothing: no such file; accepted: a run directory"):
        load_run(tmp_path / "nothing", cpu)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` falls back to the CPU; asking for a missing GPU is an error."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="rap doctor"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")


def test_unknown_devices_are_told_what_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that torch knows and we do not, and a GPU that is not there."""
    for name in ("gpu", "mps", "meta", "", "cuda:x"):
        with pytest.raises(ConfigError, match="is not known; accepted: auto, cpu, cuda, cuda:N"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="device 'cuda:2': torch sees 2 GPUs, from 0"):
        pick_device("cuda:2")
