"""Cached features count in the device's budget and in the prediction; what does not fit streams."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file

from rap.camera import Camera
from rap.config import Config, LossWeights
from rap.data.images import ImageBank
from rap.model.regressor import build_regressor
from rap.scene import Scene
from rap.splat.gaussians import Gaussians
from rap.train import memory
from rap.train.banks import draw_views, prepare
from rap.train.batches import Banks, Batch, epoch_indices
from rap.train.footprint import cache_footprint
from rap.train.inputs import Inputs
from rap.train.loop import train
from rap.train.memory import predicted_bytes

NUM_IMAGES = 8 + 8 + 16
IMAGE_BYTES = NUM_IMAGES * 3 * 48 * 64
FEATURE_BYTES = 32 * 3 * 4 * 4
"""Of an image: 32 channels of 3 x 4 cells in fp32."""
CAMERA = Camera(50.0, 50.0, 32.0, 24.0, 64, 48)


def changed(config: Config, section: str = "train", **changes: Any) -> Config:  # noqa: ANN401
    """The same configuration with other settings of a section."""
    return replace(config, **{section: replace(getattr(config, section), **changes)})


def with_budget(config: Config, num_bytes: int) -> Config:
    """The same configuration with a budget of so many bytes."""
    return changed(config, "image", device_budget_gib=num_bytes / 2**30)


@pytest.fixture
def config(tiny_config: Config) -> Config:
    """Frozen from the second of four epochs on, on photographs, renderings and two views each."""
    config = changed(tiny_config, "model", rotation_level=4)
    config = changed(config, "views", per_image=2)
    config = replace(config, weights=LossWeights(pose=1.0, rendered=1.0, view=1.0))
    return changed(config, epochs=4, freeze_after=0.25, cached_features=True)


def given(scene: Scene, splat: Gaussians, config: Config, device: torch.device) -> list[Batch]:
    """All batches of two epochs with a frozen trunk, between which views are redrawn."""
    material = prepare(scene, splat, config, device)
    regressor = build_regressor(config.model, 3).train().to(device)
    inputs, found = Inputs(regressor, material, config), []
    for epoch in (1, 2):
        draw_views(material, config, epoch)
        found += list(inputs.of_epoch(epoch, epoch_indices(8, 4, 1, epoch)))
    return found


@pytest.mark.parametrize("num_workers", [0, 2])
def test_features_beyond_the_budget_stream_from_the_host(
    tiny_scene: Scene, tiny_splat: Gaussians, config: Config, device: torch.device,
    capsys: pytest.CaptureFixture[str], num_workers: int,
) -> None:  # fmt: skip
    """The same batches, one byte short as with room for all; a line says so, once."""
    config = changed(config, "image", num_workers=num_workers)
    least = IMAGE_BYTES + NUM_IMAGES * FEATURE_BYTES
    resident = given(tiny_scene, tiny_splat, with_budget(config, least), device)
    assert "host memory" not in capsys.readouterr().err
    short = with_budget(config, least - 1)
    streamed = given(tiny_scene, tiny_splat, short, device)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("train.cached_features: 0.00 GiB do not fit image.device_budget_gib = ") == 1
    assert said.count("so they stay in host memory") == 1
    for a, b in zip(resident, streamed, strict=True):
        assert a.are_features
        assert b.are_features
        assert a.images.device == b.images.device
        assert a.sizes == b.sizes
        assert a.images.equal(b.images)
        assert a.world_from_camera.equal(b.world_from_camera)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shape checks take most of the time of a step without values."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def many_images(num: int) -> Banks:
    """So many photographs and as many views, of a pixel each."""
    images = torch.zeros(num, 3, 1, 1, dtype=torch.uint8)
    bank = ImageBank(images, torch.zeros(num, 4, 4), torch.device("cpu"), 2**30, pin_memory=False)
    return Banks(bank, None, bank)


@pytest.mark.usefixtures("unchecked")
def test_the_prediction_knows_how_large_features_are(config: Config) -> None:
    """Found on shapes alone; half as large in half precision."""
    assert cache_footprint(config, 48, 64, 4).each == FEATURE_BYTES
    half = changed(config, precision="bf16")
    assert cache_footprint(half, 48, 64, 4).each == FEATURE_BYTES // 2
    few, more = (cache_footprint(config, 48, 64, at_once).filling for at_once in (4, 8))
    assert few > 4 * (3 * 48 * 64 * 4)
    assert more == pytest.approx(2 * few, rel=0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_features_on_the_device_are_predicted(config: Config) -> None:
    """Beside a step that is given them; a recording of the step before is still there."""
    config, banks = changed(config, batch_size=32), many_images(200_000)
    kept = 400_000 * FEATURE_BYTES
    without, eager = predicted_bytes(config, CAMERA), predicted_bytes(config, CAMERA, banks)
    assert without < kept
    assert kept < eager < without + kept
    graphed = changed(config, execution="graphed")
    assert predicted_bytes(graphed, CAMERA, banks) > predicted_bytes(graphed, CAMERA) + kept
    for none in (with_budget(config, kept), changed(config, cached_features=False)):
        assert predicted_bytes(none, CAMERA, banks) == without


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_a_trunk_that_never_learns_is_not_predicted_to(config: Config) -> None:
    """From the first epoch on, a step is given features."""
    model = replace(config.model, batch_norm="calibrated")
    config, banks = replace(config, model=model), many_images(10)
    never = changed(config, freeze_after=0.0)
    assert predicted_bytes(never, CAMERA, banks) < predicted_bytes(config, CAMERA, banks)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_advice_moves_the_features_first(config: Config) -> None:
    """It costs no more than a copy of each batch; where they are on the host, it is not given."""
    config, banks = changed(config, "model", layers=1), many_images(100_000)
    config = changed(config, "model", translation_level=2, rotation_level=2)
    said = memory._advice(config, CAMERA, banks)
    assert f"image.device_budget_gib = 0 ({memory._in_gib(config, CAMERA, None)})" in said
    assert "device_budget_gib" not in memory._advice(with_budget(config, 0), CAMERA, banks)


def test_a_training_streams_features_as_it_keeps_them(
    tiny_scene: Scene, tiny_splat: Gaussians, config: Config, tmp_path: Path
) -> None:
    """The same weights in the end; where features lie is no setting of the run's result."""
    weights = []
    for name, budget in (("kept", 2**30), ("streamed", IMAGE_BYTES)):
        one = changed(with_budget(config, budget), epochs=2, freeze_after=0.5)
        best = train(tiny_scene, tiny_splat, one, tmp_path / name, torch.device("cpu"))
        weights.append(load_file(best.with_name("last.safetensors")))
    assert all(weights[0][key].equal(weights[1][key]) for key in weights[0])
