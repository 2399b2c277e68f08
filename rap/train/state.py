"""What a resumed run needs, in one file that is replaced as training goes on."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rap.config import ConfigError
from rap.log import replacing
from rap.model.stored import UnreadableError, read_torch
from rap.train.step import Learner

VERSION = 2


@dataclass
class Progress:
    """How far a run has come."""

    epochs_done: int = 0
    best_score: float = float("inf")
    best_epoch: int = -1
    validations_since_best: int = 0
    plateau_factor: float = 1.0
    line: str = ""
    """What the log says of the last epoch, as JSON; in case that the log does not say it yet."""


def state_of(learner: Learner, progress: Progress, fingerprint: str) -> dict[str, Any]:
    """Everything but random state, which follows from the seed and the epoch; no copy."""
    return {
        "version": VERSION,
        "fingerprint": fingerprint,
        "progress": asdict(progress),
        "num_steps": learner.num_steps,
        **{name: part.state_dict() for name, part in _parts(learner).items()},
    }


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write what `state_of` gave; the file appears whole or not at all."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_state(path: Path, learner: Learner, fingerprint: str) -> Progress:
    """Restore a learner in place; raises ConfigError for a state of another run."""
    device = next(learner.regressor.parameters()).device
    try:
        state = read_torch(path, device)
    except UnreadableError as error:
        raise _unusable(path, f"damaged: {error}") from error
    if not isinstance(state, dict):
        raise _unusable(path, f"no state of a run: it holds {type(state).__name__}")
    if state.get("version") != VERSION:
        raise ConfigError(
            f"{path}: state version {state.get('version')!r}, this code reads {VERSION}; "
            "start a new run"
        )
    needed = {"fingerprint", "progress", "num_steps"}
    if missing := sorted(needed - state.keys()):
        raise _unusable(path, f"no state of a run: without {', '.join(missing)}")
    if state["fingerprint"] != fingerprint:
        raise ConfigError(
            f"{path}: this run was started with other settings, images or Gaussians; resume with "
            "the same ones, or start a new run in another folder"
        )
    parts = _parts(learner)
    if missing := sorted(parts.keys() - state.keys()):
        raise _unusable(path, f"no whole state of a run: without {', '.join(missing)}")
    for name, part in parts.items():
        stored = state[name]
        if isinstance(part, torch.optim.Optimizer):
            stored = _run_as_here(stored, part)
        part.load_state_dict(stored)
    learner.num_steps = state["num_steps"]
    return Progress(**state["progress"])


def _unusable(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"{path}: {reason}; last.safetensors beside it holds the weights, but the run cannot go "
        "on: start a new one in another folder"
    )


def _run_as_here(stored: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """How steps are run belongs to the device, not to the run: a CPU's file would forbid graphs."""
    groups = [
        group | {key: own[key] for key in ("fused", "capturable") if key in own}
        for group, own in zip(stored["param_groups"], optimizer.param_groups, strict=True)
    ]
    return stored | {"param_groups": groups}


def _parts(learner: Learner) -> dict[str, Any]:
    """Everything with a state_dict, by the name under which it is stored."""
    parts = {
        "regressor": learner.regressor,
        "pose_loss": learner.pose_loss,
        "optimizer": learner.optimizer,
        "scaler": learner.scaler,
        "average": learner.average,
        "discriminator": learner.discriminator,
        "discriminator_optimizer": learner.discriminator_optimizer,
    }
    return {name: part for name, part in parts.items() if part is not None}
