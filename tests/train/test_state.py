"""What a stored state says about the device that it came from."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rap.config import Config, ConfigError, LossWeights
from rap.model.regressor import build_regressor
from rap.train.loop import _epoch_of
from rap.train.state import Progress, _run_as_here, load_state, state_of, write_state
from rap.train.step import Learner, build_learner


def stepped(lr: float, *, capturable: bool) -> torch.optim.AdamW:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=lr, capturable=capturable)
    if not capturable:
        weight.grad = torch.ones(3)
        optimizer.step()
    return optimizer


def test_how_steps_are_run_stays_that_of_this_device() -> None:
    """Rates and moments come from the file, what a CUDA graph needs does not."""
    stored = stepped(0.5, capturable=False).state_dict()
    here = stepped(0.1, capturable=True)
    here.load_state_dict(_run_as_here(stored, here))
    assert here.param_groups[0]["capturable"]
    assert here.param_groups[0]["lr"] == 0.5
    assert len(here.state) == 1
    assert not stored["param_groups"][0]["capturable"]


@pytest.fixture
def learner(tiny_config: Config) -> Learner:
    """Untrained, with an average."""
    regressor = build_regressor(tiny_config.model, seed=0)
    return build_learner(regressor, copy.deepcopy(regressor), tiny_config, torch.device("cpu"))


def test_a_state_holds_all_that_a_training_consists_of(tiny_config: Config) -> None:
    """A list of its own: what the code forgets is missing here."""
    weights = LossWeights(1.0, 1.0, 1.0, 1.0, 0.7)
    config = replace(tiny_config, weights=weights)
    regressor = build_regressor(config.model, seed=0)
    learner = build_learner(regressor, copy.deepcopy(regressor), config, torch.device("cpu"))
    assert set(state_of(learner, Progress(), "mark")) == {
        "version", "fingerprint", "progress", "num_steps", "regressor", "pose_loss", "optimizer",
        "scaler", "average", "discriminator", "discriminator_optimizer",
    }  # fmt: skip


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02junk", r"state\.pt: damaged: no zip archive"),
        (b"hello there", r"state\.pt: damaged: no zip archive"),
        (b"", r"state\.pt: damaged: an empty file"),
        (POINTER, r"state\.pt: damaged: a Git-LFS pointer.*`git lfs pull`"),
    ],
    ids=["junk", "text", "empty", "pointer"],
)
def test_what_is_no_archive_is_one_error_in_our_words(
    learner: Learner, tmp_path: Path, content: bytes, message: str
) -> None:
    """It names the file and what it is; torch's advice to trust it is not repeated."""
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_state(path, learner, "mark")
    assert "weights_only" not in str(caught.value)


def test_what_is_no_state_is_one_error(learner: Learner, tmp_path: Path) -> None:
    """A list, one without its parts, and one whose archive is cut."""
    path = tmp_path / "state.pt"
    torch.save([1, 2], path)
    with pytest.raises(ConfigError, match=r"state\.pt: no state of a run: it holds list"):
        load_state(path, learner, "mark")
    torch.save({"version": 2}, path)
    with pytest.raises(ConfigError, match="without fingerprint, num_steps, progress"):
        load_state(path, learner, "mark")
    whole = state_of(learner, Progress(), "mark")
    write_state(path, {name: part for name, part in whole.items() if name != "average"})
    with pytest.raises(ConfigError, match="no whole state of a run: without average"):
        load_state(path, learner, "mark")
    write_state(path, whole)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(ConfigError, match="damaged"):
        load_state(path, learner, "mark")


@pytest.mark.parametrize("line", ["[1]", "7", "null", "{}", '{"epoch": "x"}', '{"epoch"', ""])
def test_a_damaged_log_line_is_of_no_epoch(line: str) -> None:
    """It is dropped, and its epoch is not missed."""
    assert _epoch_of(line) == float("inf")
