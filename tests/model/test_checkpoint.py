"""Checkpoints: what is written comes back, and everything else is refused by name."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from rap.camera import Camera
from rap.config import ConfigError, ModelConfig
from rap.model import checkpoint
from rap.model.checkpoint import CheckpointError
from rap.model.regressor import Regressor, build_regressor

CONFIG = ModelConfig(
    width=0.25, dim=16, heads=2, layers=1, feedforward=16, head_hidden=16, feature_dim=8,
    translation_level=3, rotation_level=2,
)  # fmt: skip
CAMERA = Camera(50.5, 51.0, 31.75, 24.0, 64, 48)
CPU = torch.device("cpu")


def trained(seed: int = 3) -> Regressor:
    """A regressor whose statistics differ from those of a fresh one."""
    net = build_regressor(CONFIG, seed)
    net.set_translation_stats(torch.randn(5, 3))
    net.train()(torch.rand(2, 3, 48, 64), with_features=True)
    return net.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "best.safetensors"
    checkpoint.save(path, trained(), CAMERA, {"scene": "room", "epoch": "7"})
    return path


def rewrite(path: Path, tensors: dict[str, Tensor] | None = None, **metadata: str) -> None:
    """The same file with some tensors or metadata replaced."""
    with checkpoint.safe_open(path, framework="pt") as file:
        old = file.metadata()
    save_file((load_file(path) if tensors is None else tensors), path, old | metadata)


def test_round_trip_is_exact(tmp_path: Path, device: torch.device) -> None:
    """Weights, statistics, configuration, camera and provenance come back unchanged."""
    net, path = trained(), tmp_path / "a.safetensors"
    checkpoint.save(path, net.to(device), CAMERA, {"scene": "room"})
    loaded = checkpoint.load(path, device)
    torch.testing.assert_close(loaded.regressor.state_dict(), net.state_dict(), rtol=0, atol=0)
    assert loaded.regressor.config == CONFIG
    assert loaded.camera == CAMERA
    assert loaded.provenance == {"scene": "room"}
    assert not loaded.regressor.training


def test_channels_last_weights_are_saved(tmp_path: Path) -> None:
    """The memory layout of training does not matter."""
    net, path = trained(), tmp_path / "a.safetensors"
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    checkpoint.save(path, net, CAMERA, {})
    loaded = checkpoint.load(path, CPU).regressor
    torch.testing.assert_close(loaded.state_dict(), net.state_dict(), rtol=0, atol=0)


def test_failed_save_keeps_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is replaced whole or not at all, and no scrap stays behind."""

    def half(_: object, path: Path, __: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", half)
    before = saved.read_bytes()
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(saved, trained(9), CAMERA, {})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_one_error_names_everything_that_does_not_fit(saved: Path) -> None:
    """Missing, unexpected, mis-shaped and non-finite tensors are listed together."""
    tensors = load_file(saved)
    tensors["extra.weight"] = tensors.pop("positions.pose")
    tensors["positions.rows"] = torch.zeros(3, 8)
    tensors["trunk.stem.weight"][0, 0, 0, 0] = torch.nan
    rewrite(saved, tensors)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(saved, CPU)
    message = str(caught.value)
    assert str(saved) in message
    assert "missing: positions.pose" in message
    assert "unexpected: extra.weight" in message
    assert "mis-shaped: positions.rows (3, 8) instead of (255, 8)" in message
    assert "not finite: trunk.stem.weight" in message


NET = build_regressor(CONFIG, 0)


@given(name=st.sampled_from(sorted(NET.state_dict())), change=st.sampled_from(["missing", "nan"]))
def test_any_single_fault_is_named_and_nothing_is_loaded(name: str, change: str) -> None:
    """Whatever tensor is wrong, the error names it and the network keeps its weights."""
    net = NET
    before = {key: value.clone() for key, value in net.state_dict().items()}
    tensors = {key: torch.ones_like(value) for key, value in before.items()}
    if change == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.full(tensors[name].shape, torch.inf)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        checkpoint.load_weights(net, tensors, "planted")
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"version": "2"}, "version '2'; this program reads 'rap-regressor' version '1'"),
        ({"format": "other"}, "format 'other'"),
        ({"model": "{"}, "no readable 'model'"),
        ({"provenance": "[]"}, "'provenance' must be an object"),
        ({"camera": json.dumps({"fx": 1})}, "camera .* must be positive fx, fy"),
        ({"camera": json.dumps(dataclasses.asdict(CAMERA) | {"width": 1.5})}, "camera"),
        ({"camera": json.dumps(dataclasses.asdict(CAMERA) | {"height": -1})}, "camera"),
    ],
)
def test_unusable_metadata_is_refused(saved: Path, metadata: dict[str, str], message: str) -> None:
    """Each fault of the file's own description is one error that names the file."""
    rewrite(saved, None, **metadata)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load(saved, CPU)
    assert str(saved) in str(caught.value)


def test_unknown_setting_is_refused(saved: Path) -> None:
    """A configuration of a newer program is an error, not ignored."""
    rewrite(saved, model=json.dumps(dataclasses.asdict(CONFIG) | {"depth": 3}))
    with pytest.raises(ConfigError, match=r"unknown key model\.depth"):
        checkpoint.load(saved, CPU)


def test_pickled_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """A .pth file is never unpickled here; the error says what converts it."""
    path = tmp_path / "chess.pth"
    torch.save({}, path)
    with pytest.raises(CheckpointError, match=r"not a safetensors file .*`rap convert`"):
        checkpoint.load(path, CPU)


def test_safetensors_of_something_else_are_refused(tmp_path: Path) -> None:
    """A file without our metadata is not guessed at."""
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="format None"):
        checkpoint.load(path, CPU)


@pytest.mark.parametrize("name", ["absent.safetensors", "."])
def test_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    """No file, or a folder, at the path."""
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path / name, CPU)
