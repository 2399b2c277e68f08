"""A run's directory: used again where nothing would be lost, and by one process at a time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rap import cli
from rap.config import Config, ConfigError, to_toml
from rap.scene import Scene
from rap.train import loop
from rap.train.errors import TrainingError
from rap.train.folder import has_no_epoch, opened
from rap.train.loop import train

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny_config: Config) -> Config:
    """One epoch on photographs alone."""
    return replace(
        tiny_config,
        weights=replace(tiny_config.weights, view=0.0),
        train=replace(tiny_config.train, epochs=1),
    )


def test_a_run_that_failed_in_its_first_epoch_is_started_anew(
    tiny_scene: Scene, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The same command, or one with other settings, works without its cause; a line says so."""

    def diverging(*_: object) -> None:
        raise TrainingError("the loss is not finite")

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_epoch", diverging)
        with pytest.raises(TrainingError):
            train(tiny_scene, None, config, run, CPU)
    assert [path.name for path in run.iterdir()] == ["config.toml"]
    (run / ".state.pt.123456789.tmp").touch()
    lower = replace(config, train=replace(config.train, learning_rate=1e-4))
    capsys.readouterr()
    assert train(tiny_scene, None, lower, run, CPU).exists()
    assert "ended before its first epoch did; it is started anew" in capsys.readouterr().err
    assert (run / "config.toml").read_text() == to_toml(lower)


def test_the_command_line_lets_such_a_folder_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not called 'not empty': the first complaint is about the next thing that is wrong."""
    (tmp_path / "config.toml").touch()
    argv = ["train", "room", "-o", str(tmp_path), "--splat", str(tmp_path / "no.ply")]
    assert cli.main(argv) == 2
    assert "no.ply: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["log.jsonl", "state.pt", "best.safetensors", "notes.txt"])
def test_what_an_epoch_left_is_not_overwritten(tmp_path: Path, name: str) -> None:
    """Nor what somebody else put there."""
    (tmp_path / "config.toml").touch()
    assert has_no_epoch(tmp_path)
    (tmp_path / name).touch()
    assert not has_no_epoch(tmp_path)


def test_a_folder_without_settings_is_no_run(tmp_path: Path) -> None:
    """An empty one, or none, is no run that could be started anew."""
    assert not has_no_epoch(tmp_path)
    assert not has_no_epoch(tmp_path / "nowhere")


def test_one_process_at_a_time_trains_into_a_folder(
    tiny_scene: Scene, config: Config, tmp_path: Path
) -> None:
    """A run in its first epoch looks like one that failed; its lock tells them apart."""
    with (
        opened(tmp_path / "run", config, resume=False),
        pytest.raises(ConfigError, match="another process is training into it"),
    ):
        train(tiny_scene, None, config, tmp_path / "run", CPU)
    assert train(tiny_scene, None, config, tmp_path / "run", CPU).exists()
