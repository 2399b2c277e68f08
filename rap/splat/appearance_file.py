"""The appearance of a splat on disk: `NAME.appearance.safetensors` beside `NAME.ply`.

The .ply stays what other tools read and shows the mean appearance; this file adds the rest, and the
.ply's header says by its hash which file that is.
"""

import hashlib
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rap.scene import DataError
from rap.splat.appearance import NUM_AFFINE, Appearance

FORMAT = "rap-appearance"
VERSION = "1"
_NAMES = tuple(field.name for field in fields(Appearance))
_NUM_DIMS = {"codes": 2, "features": 2, "hidden": 2, "output": 2, "exposure": 3}


def appearance_path(ply: Path) -> Path:
    """Where the appearance of a .ply lies."""
    return ply.with_suffix(".appearance.safetensors")


def appearance_bytes(appearance: Appearance) -> bytes:
    """The file's content: the five tensors as float32."""
    tensors = {
        name: getattr(appearance, name).detach().float().cpu().contiguous() for name in _NAMES
    }
    return save(tensors, {"format": FORMAT, "version": VERSION})


def digest_of(content: bytes) -> str:
    """What the .ply's header says of the file's content: its SHA-256."""
    return hashlib.sha256(content).hexdigest()


def check_digest(ply: Path, digest: str) -> None:
    """Refuse a .ply whose appearance is missing, or is that of another."""
    path = appearance_path(ply)
    way_out = (
        f"; put the file that was written with {ply.name} there, or fit again; for the mean light"
        " alone, make that line of the header `comment appearance none`"
    )
    try:
        found = digest_of(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{ply}: its header names an appearance, but {path} cannot be read: "
            f"{error.strerror}{way_out}"
        ) from error
    if found != digest:
        raise DataError(f"{path}: not the appearance that the header of {ply} names{way_out}")


def load_appearance(path: Path, num_gaussians: int) -> Appearance:
    """Read what `save_appearance` wrote; DataError names the file and all that does not fit."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except SafetensorError as error:
        raise DataError(f"{path}: not a safetensors file ({error})") from error
    found = metadata.get("format"), metadata.get("version")
    if found != (FORMAT, VERSION):
        raise DataError(
            f"{path}: format and version are {found[0]} {found[1]}; accepted: {FORMAT} {VERSION}"
        )
    problems = _name_problems(tensors) or _shape_problems(tensors, num_gaussians)
    if problems:
        raise DataError(f"{path}: no appearance of its .ply: {'; '.join(problems)}")
    return Appearance(**tensors)


def _name_problems(tensors: dict[str, Tensor]) -> list[str]:
    """Tensors that are missing, unknown, of another kind or not finite."""
    problems = [f"{name} is missing" for name in _NAMES if name not in tensors]
    problems += [f"{name} is unknown" for name in tensors if name not in _NAMES]
    if problems:
        return problems
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or tensor.ndim != _NUM_DIMS[name]:
            kind = f"{tensor.dtype} of {tensor.ndim} dimensions"
            problems.append(f"{name} is {kind}, not torch.float32 of {_NUM_DIMS[name]}")
        elif not tensor.isfinite().all():
            problems.append(f"{name} is not finite")
    return problems


def _shape_problems(tensors: dict[str, Tensor], num_gaussians: int) -> list[str]:
    num_images, num_codes = tensors["codes"].shape
    num_rows, num_features = tensors["features"].shape
    num_hidden = tensors["hidden"].shape[1]
    expected = {
        "hidden": (num_codes, num_hidden),
        "output": (num_hidden, NUM_AFFINE * num_features),
        "exposure": (num_images, 3, 4),
    }
    problems = [
        f"{name} is {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if tuple(tensors[name].shape) != shape
    ]
    if num_images == 0:
        problems.append("it holds no photographs' codes")
    if num_rows != num_gaussians:
        problems.append(f"it holds {num_rows} Gaussians, the .ply {num_gaussians}")
    return problems
