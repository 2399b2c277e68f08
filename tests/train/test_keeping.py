"""Files written beside the training: whole, of their moment, and never silently missing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rap.config import Config, ConfigError
from rap.scene import Scene
from rap.train import keeping
from rap.train.keeping import Writer, on_host
from rap.train.loop import train

CPU = torch.device("cpu")


def on_photographs(config: Config, **changes: Any) -> Config:  # noqa: ANN401 (any setting)
    """The tiny training without views."""
    weights = replace(config.weights, view=0.0)
    return replace(config, weights=weights, train=replace(config.train, **changes))


def fail(path: Path, _state: dict[str, Any]) -> None:
    """A disk that is full."""
    raise OSError(28, "No space left on device", str(path))


def test_copies_are_of_their_moment(device: torch.device) -> None:
    """What is copied does not change with what happens later on the device."""
    weights = torch.arange(1_000_000.0, device=device)
    copies, ready = on_host({"a": {"b": [weights]}, "c": 3})
    weights.zero_()
    ready()
    assert copies["c"] == 3
    assert torch.equal(copies["a"]["b"][0], torch.arange(1_000_000.0))
    assert copies["a"]["b"][0].is_pinned() == (device.type == "cuda")


def test_an_error_of_the_thread_is_the_callers_next_one() -> None:
    """It comes out where the next job starts, or at the end of the context."""

    def broken() -> None:
        raise OSError("disk full")

    with Writer() as writer:
        writer.start(broken)
        with pytest.raises(OSError, match="disk full"):
            writer.start(lambda: pytest.fail("started after an error"))
    with pytest.raises(OSError, match="disk full"), Writer() as writer:
        writer.start(broken)


def test_an_error_of_the_training_is_not_hidden_by_one_of_the_thread(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first error is raised, the other one shown."""

    def both() -> None:
        with Writer() as writer:
            writer.start(lambda: fail(Path("disk full"), {}))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        both()
    assert "disk full" in capsys.readouterr().err


def test_a_full_disk_ends_the_training(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the file, and comes an epoch later at most."""
    monkeypatch.setattr(keeping, "write_state", fail)
    with pytest.raises(OSError, match=r"No space left.*state\.pt"):
        train(tiny_scene, None, on_photographs(tiny_config, epochs=9), tmp_path / "run", CPU)
    assert not (tmp_path / "run" / "log.jsonl").exists()  # no epoch without its state


def test_an_epoch_is_logged_after_its_state_and_never_twice(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, it is not done again, and the resumed run logs what it was worth."""
    run, original, logged = tmp_path / "run", keeping.write_state, []

    def epochs() -> list[int]:
        lines = (run / "log.jsonl").read_text().splitlines() if (run / "log.jsonl").exists() else []
        return [json.loads(line)["epoch"] for line in lines]

    def write_then_die(path: Path, state: dict[str, Any]) -> None:
        original(path, state)
        logged.append(epochs())
        if len(logged) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(keeping, "write_state", write_then_die)
    config = on_photographs(tiny_config, epochs=3)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_scene, None, config, run, CPU)
    assert logged == [[], [0]]
    train(tiny_scene, None, config, run, CPU, resume=True)
    assert logged[2:] == [[0, 1]]
    assert epochs() == [0, 1, 2]


def test_what_a_killed_run_left_half_written_goes_when_it_is_resumed(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path
) -> None:
    """Temporaries of processes that have ended; a resumed run has another number."""
    run, config = tmp_path / "run", on_photographs(tiny_config, epochs=1)
    train(tiny_scene, None, config, run, CPU)
    left = run / f".state.pt.{10**30}.tmp"
    left.write_bytes(b"half of a state")
    train(tiny_scene, None, config, run, CPU, resume=True)
    assert not left.exists()


def test_states_are_as_rare_as_asked_for(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second epoch and the last one; each epoch is logged, and each best kept."""
    saved: list[int] = []
    original = keeping.write_state

    def counted(path: Path, state: dict[str, Any]) -> None:
        saved.append(state["progress"]["epochs_done"])
        original(path, state)

    monkeypatch.setattr(keeping, "write_state", counted)
    config = on_photographs(tiny_config, epochs=5, save_every=2)
    best = train(tiny_scene, None, config, tmp_path / "run", CPU)
    assert saved == [2, 4, 5]
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3, 4]
    often = train(tiny_scene, None, on_photographs(tiny_config, epochs=5), tmp_path / "often", CPU)
    a, b = load_file(best), load_file(often)
    assert all(torch.equal(a[name], b[name]) for name in a | b)


def test_an_early_stop_leaves_the_last_weights(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in an epoch whose state was not due."""
    from rap.train import loop

    scores = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(loop, "score", lambda _: next(scores))
    config = on_photographs(tiny_config, epochs=9, patience=2, save_every=5)
    train(tiny_scene, None, config, tmp_path / "run", CPU)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["progress"]["epochs_done"] == 3
    assert (tmp_path / "run" / "last.safetensors").exists()


def test_how_a_step_is_run_may_change_when_a_run_is_resumed(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path
) -> None:
    """Execution, checkpointing and the interval of states; what changes the result may not."""
    config, run = on_photographs(tiny_config, epochs=1), tmp_path / "run"
    train(tiny_scene, None, config, run, CPU)
    other = on_photographs(config, execution="graphed", checkpointing=True, save_every=3)
    train(tiny_scene, None, other, run, CPU, resume=True)
    with pytest.raises(ConfigError, match="other settings"):
        train(tiny_scene, None, on_photographs(config, micro_batches=2), run, CPU, resume=True)
