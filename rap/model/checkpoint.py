"""A regressor on disk: one safetensors file that carries its own configuration and camera.

Nothing but `load` makes a regressor for scoring, and it accepts only a complete set of finite
weights, so no number can come from weights that were not loaded.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rap import config as settings
from rap.camera import Camera
from rap.log import replacing
from rap.model.regressor import Regressor, build_regressor
from rap.model.stored import what_it_is

FORMAT = "rap-regressor"
VERSION = "1"


class CheckpointError(ValueError):
    """A file of weights that cannot be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded regressor in evaluation mode, the camera it was trained for, and its history."""

    regressor: Regressor
    camera: Camera
    provenance: dict[str, str]


def save(path: Path, regressor: Regressor, camera: Camera, provenance: dict[str, str]) -> None:
    """Write weights, configuration, camera and provenance; the file appears whole or not at all."""
    write(path, regressor.config, regressor.state_dict(), camera, provenance)


def write(
    path: Path,
    config: settings.ModelConfig,
    weights: Mapping[str, Tensor],
    camera: Camera,
    provenance: dict[str, str],
) -> None:
    """`save` for weights that were copied from a regressor with this configuration."""
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "model": json.dumps(dataclasses.asdict(config)),
        "camera": json.dumps(dataclasses.asdict(camera)),
        "provenance": json.dumps(provenance),
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def load(path: Path, device: torch.device) -> Checkpoint:
    """Read what `save` wrote; CheckpointError names everything that does not fit."""
    metadata, tensors = _read(path)
    _check_format(path, metadata)
    fields = {key: _parse(path, metadata, key) for key in ("model", "camera", "provenance")}
    config = settings.from_dict({"model": fields["model"]}, str(path)).model
    # The seed is irrelevant: load_weights replaces every tensor or raises.
    regressor = build_regressor(config, seed=0)
    load_weights(regressor, tensors, str(path))
    provenance = {key: str(value) for key, value in fields["provenance"].items()}
    return Checkpoint(
        regressor.eval().to(device), checked_camera(path, fields["camera"]), provenance
    )


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy a complete set of finite tensors into a module, or change nothing and raise.

    One CheckpointError names all missing, unexpected, mis-shaped and non-finite tensors; `source`
    says where they came from.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_tensors(expected, tensors, source)
    module.load_state_dict(dict(tensors))


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], source: str
) -> None:
    """Raise one CheckpointError that names every tensor which is not as expected."""
    shared = [name for name in expected if name in tensors]
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "mis-shaped": [
            f"{name} {tuple(tensors[name].shape)} instead of {expected[name]}"
            for name in shared
            if tuple(tensors[name].shape) != expected[name]
        ],
        "not finite": [name for name in shared if not bool(tensors[name].isfinite().all())],
    }
    found = [f"{kind}: {_listed(names)}" for kind, names in problems.items() if names]
    if found:
        raise CheckpointError(f"{source} does not fit the network; " + "; ".join(found))


def _listed(names: Iterable[str], limit: int = 20) -> str:
    names = list(names)
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except SafetensorError as error:
        if found := what_it_is(path):
            raise CheckpointError(f"{path}: not a safetensors file but {found}") from error
        raise CheckpointError(
            f"{path}: not a safetensors file ({error}); "
            "published .pt and .pth checkpoints go through `rap convert` first"
        ) from error


def _check_format(path: Path, metadata: dict[str, str]) -> None:
    found = metadata.get("format"), metadata.get("version")
    if found != (FORMAT, VERSION):
        raise CheckpointError(
            f"{path}: format {found[0]!r} version {found[1]!r}; "
            f"this program reads {FORMAT!r} version {VERSION!r}"
        )


def _parse(path: Path, metadata: dict[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(metadata[key])
    except (KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: its metadata has no readable {key!r}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: metadata {key!r} must be an object, not {value!r}")
    return value


def checked_camera(path: Path, values: dict[str, Any]) -> Camera:
    """The camera that a file's metadata holds; CheckpointError for values that make none."""
    kinds = {f.name: f.type for f in dataclasses.fields(Camera)}
    good = values.keys() == kinds.keys() and all(
        isinstance(value, int | kinds[name]) and not isinstance(value, bool) and value > 0
        for name, value in values.items()
    )
    if not good:
        raise CheckpointError(f"{path}: camera {values} must be positive {', '.join(kinds)}")
    return Camera(**values)
