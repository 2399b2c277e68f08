"""What a resumed run needs, in one file that is replaced as training goes on."""

from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError  # only its name: what torch raises for a damaged file
from typing import Any

import torch

from rap.config import ConfigError
from rap.log import replacing
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
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise ConfigError(
            f"{path}: damaged ({error}); last.safetensors beside it holds the weights, but the run "
            "cannot go on: start a new one"
        ) from error
    if state.get("version") != VERSION:
        raise ConfigError(
            f"{path}: state version {state.get('version')!r}, this code reads {VERSION}; "
            "start a new run"
        )
    if state["fingerprint"] != fingerprint:
        raise ConfigError(
            f"{path}: this run was started with other settings, images or Gaussians; resume with "
            "the same ones, or start a new run in another folder"
        )
    for name, part in _parts(learner).items():
        stored = state[name]
        if isinstance(part, torch.optim.Optimizer):
            stored = _run_as_here(stored, part)
        part.load_state_dict(stored)
    learner.num_steps = state["num_steps"]
    return Progress(**state["progress"])


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
