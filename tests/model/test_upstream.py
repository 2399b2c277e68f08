"""Published RAP checkpoints become ours and predict the same; all else is refused by name."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rap.camera import Camera
from rap.config import ConfigError
from rap.model import checkpoint
from rap.model.checkpoint import CheckpointError
from rap.model.upstream import convert_checkpoint, published_name, unused_names
from tests.model import plain_rapnet

CAMERA = Camera(60.0, 60.0, 40.0, 30.0, 80, 60)
STATE = plain_rapnet.random_state(seed=5)


def images(height: int, width: int) -> Tensor:
    """Two unlike smooth images in [0, 1], float64."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A best or released file: a plain state dict."""
    path = tmp_path / "chess.pth"
    torch.save(STATE, path)
    return path


def full_checkpoint(state: dict[str, Tensor]) -> dict[str, object]:
    """What training saves every epoch, NumPy scalars of the evaluation included."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    schedule.step(np.float64(0.5))
    best = {"MedTrans": np.float64(0.02), "AvgRot": np.float32(1.5), "# Suc 5": np.int64(3)}
    return {
        "epoch": 3,
        "model_state_dict": state,
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": schedule.state_dict(),
        "early_stopper": {"counter": 0, "best_results": best, "rot_err_min": np.float64(1)},
    }


def test_plain_network_has_the_published_layout() -> None:
    """543 tensors, 11,132,909 parameters, of which 4,436,740 are never used."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    sizes = {k: v.numel() for k, v in STATE.items() if not k.endswith(buffers)}
    assert len(STATE) == 543
    assert sum(sizes.values()) == 11_132_909
    assert sum(sizes.get(name, 0) for name in unused_names()) == 4_436_740
    assert unused_names() <= STATE.keys()


@pytest.mark.parametrize(("height", "width"), [(48, 64), (57, 83)])
def test_converted_network_equals_the_published_one(
    released: Path, height: int, width: int
) -> None:
    """Pose and features agree to rounding in float64, at even and odd sizes."""
    net = convert_checkpoint(released, CAMERA).double()
    state = {name: tensor.double() for name, tensor in STATE.items()}
    with torch.no_grad():
        translation, rotation, features = plain_rapnet.forward(state, images(height, width))
        ours = net(images(height, width), with_features=True)
    assert (translation[0] - translation[1]).abs().min() > 1e-3  # the images do matter
    torch.testing.assert_close(ours.translation, translation, rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.rotation, rotation, rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.features, features, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (240, 427), (233, 311)])
def test_converted_network_equals_the_published_one_at_full_size(
    released: Path, height: int, width: int
) -> None:
    """In fp32 the predictions agree to 1e-4 at the sizes that RAP is used at."""
    x = images(height, width).float()
    with torch.no_grad():
        translation, rotation, _ = plain_rapnet.forward(STATE, x)
        ours = convert_checkpoint(released, CAMERA)(x)
    torch.testing.assert_close(ours.translation, translation, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.rotation, rotation, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: full_checkpoint(state),
        lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: full_checkpoint({f"module._orig_mod.{k}": v for k, v in state.items()}),
        lambda state: {k: v for k, v in state.items() if k not in unused_names()},
    ],
    ids=["full", "compiled", "full, distributed and compiled", "without the unused end"],
)
def test_every_kind_of_file_gives_the_same_network(
    tmp_path: Path, released: Path, wrap: Callable[[dict[str, Tensor]], object]
) -> None:
    """Full and best files, compiled or distributed, hold the same weights."""
    torch.save(wrap(STATE), tmp_path / "other.pth")
    expected = convert_checkpoint(released, CAMERA).state_dict()
    converted = convert_checkpoint(tmp_path / "other.pth", CAMERA)
    torch.testing.assert_close(converted.state_dict(), expected, rtol=0, atol=0)


def test_converted_network_is_frozen_and_can_be_saved(tmp_path: Path, released: Path) -> None:
    """It scores through the usual checkpoint, with BatchNorm frozen as published."""
    net = convert_checkpoint(released, CAMERA)
    assert net.config.batch_norm == "frozen"
    assert not net.training
    assert net.translation_scale.item() == 1
    assert net.translation_mean.tolist() == [0, 0, 0]
    checkpoint.save(tmp_path / "a.safetensors", net, CAMERA, {})
    loaded = checkpoint.load(tmp_path / "a.safetensors", torch.device("cpu")).regressor
    torch.testing.assert_close(loaded.state_dict(), net.state_dict(), rtol=0, atol=0)


def test_every_tensor_of_ours_has_its_own_published_one(released: Path) -> None:
    """Names map one to one, onto all that the published network uses."""
    ours = convert_checkpoint(released, CAMERA).state_dict().keys()
    ours = ours - {"translation_mean", "translation_scale"}
    published = {published_name(name) for name in ours}
    assert len(published) == len(ours)
    assert published == STATE.keys() - unused_names()


def test_one_error_names_everything_that_does_not_fit(tmp_path: Path) -> None:
    """Missing, unexpected and mis-shaped tensors, by their published names."""
    state = dict(STATE)
    state["surplus"] = state.pop("input_proj_t.bias")
    state["backbone.1.row_embed.weight"] = torch.zeros(9, 128)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(tmp_path / "a.pth", CAMERA)
    message = str(caught.value)
    assert "a.pth" in message
    assert "missing: input_proj_t.bias" in message
    assert "unexpected: surplus" in message
    assert "mis-shaped: backbone.1.row_embed.weight (9, 128) instead of (256, 128)" in message


def test_half_an_unused_end_is_refused(tmp_path: Path) -> None:
    """The unused tensors are all there or none is: else the file is damaged."""
    state = dict(STATE)
    del state["backbone.0.body._fc.bias"]
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"missing.*_fc\.bias"):
        convert_checkpoint(tmp_path / "a.pth", CAMERA)


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1, 2]), b"PK\x03\x04half"])
def test_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, text, a bare pickle, a torn zip: one error that names the file."""
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pth: not a file of weights"):
        convert_checkpoint(path, CAMERA)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"model_state_dict": 5}, {3: "a"}])
def test_file_without_a_network_is_refused(tmp_path: Path, content: object) -> None:
    """A PyTorch file, but no state dict in it."""
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="neither a state dict"):
        convert_checkpoint(tmp_path / "a.pth", CAMERA)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """No file at the path."""
    with pytest.raises(CheckpointError, match=r"absent\.pth: cannot be read"):
        convert_checkpoint(tmp_path / "absent.pth", CAMERA)


def test_images_beyond_the_position_tables_are_refused_before_reading(tmp_path: Path) -> None:
    """2040 pixels a side are the most that published networks take."""
    large = Camera(60.0, 60.0, 40.0, 30.0, 2048, 60)
    with pytest.raises(ConfigError, match=r"2048x60 .* at most 2040"):
        convert_checkpoint(tmp_path / "absent.pth", large)
