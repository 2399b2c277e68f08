"""Checkpoints of the published RAP code (ai4ce/RAP, ICCV 2025) as our regressor.

Each of our tensors comes from exactly one published tensor, whose name follows from `RENAMES`.
Blocks 11-15 and the classifier of the trunk, which the published network computes and never reads,
are recognised and dropped.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rap.camera import Camera
from rap.config import ConfigError, ModelConfig
from rap.model.checkpoint import CheckpointError, check_tensors, load_weights
from rap.model.regressor import Regressor, build_regressor
from rap.model.stored import UnreadableError, read_torch
from rap.model.transformer import MAX_CELLS
from rap.model.upstream_config import read_config

__all__ = ["convert_checkpoint", "read_config"]

PUBLISHED_MODEL = ModelConfig(batch_norm="frozen")
PUBLISHED_ROWS = 256
WRAPPERS = ("_orig_mod.", "module.")
"""Prefixes that torch.compile and DistributedDataParallel leave on names."""

RENAMES = (
    (r"^translation_branch\.", "t/"),
    (r"^rotation_branch\.", "rot/"),
    (r"^(t|rot)/pose_token$", r"pose_token_embed_\1"),
    (r"^(t|rot)/project\.", r"input_proj_\1."),
    (r"^(t|rot)/encoder\.", r"transformer_\1.encoder."),
    (r"^(t|rot)/head_hidden\.", r"regressor_head_\1.fc_h."),
    (r"^(t|rot)/head_out\.", r"regressor_head_\1.fc_o."),
    (r"\.qkv\.", ".self_attn.in_proj_"),
    (r"\.out\.", ".self_attn.out_proj."),
    (r"^positions\.columns$", "backbone.1.col_embed.weight"),
    (r"^positions\.rows$", "backbone.1.row_embed.weight"),
    (r"^positions\.pose$", "backbone.1.pose_token_embed.weight"),
    (r"^trunk\.stem\.", "backbone.0.body._conv_stem."),
    (r"^trunk\.stem_norm\.", "backbone.0.body._bn0."),
    (r"^trunk\.blocks\.", "backbone.0.body._blocks."),
    (r"\.expand\.", "._expand_conv."),
    (r"\.expand_norm\.", "._bn0."),
    (r"\.depthwise\.", "._depthwise_conv."),
    (r"\.depthwise_norm\.", "._bn1."),
    (r"\.squeeze\.", "._se_reduce."),
    (r"\.excite\.", "._se_expand."),
    (r"\.project\.", "._project_conv."),
    (r"\.project_norm\.", "._bn2."),
    (r"^adaptation\.", "adaptation_layers.adapt_layer_"),
)
"""Applied one after another, from our names to the published ones."""


def convert_checkpoint(path: Path, camera: Camera) -> Regressor:
    """A regressor that predicts what the published network predicts, in evaluation mode.

    Reads best and released files (a plain state dict) and `full_checkpoint.pth`, also those saved
    from a compiled or distributed model. The translation stays in the file's own units (mean 0,
    scale 1). Raises CheckpointError for a file that is no such checkpoint, naming what does not
    fit, and ConfigError if `camera`, the network's input, is larger than published networks take.
    """
    stride = 2**PUBLISHED_MODEL.rotation_level
    if max(camera.width, camera.height) > MAX_CELLS * stride:
        raise ConfigError(
            f"images of {camera.width}x{camera.height} are too large for a published network, "
            f"which takes at most {MAX_CELLS * stride} pixels a side"
        )
    regressor = build_regressor(PUBLISHED_MODEL, seed=0)
    ours = regressor.state_dict()
    stats = {"translation_mean": torch.zeros(3), "translation_scale": torch.tensor(1.0)}
    names = {name: published_name(name) for name in ours if name not in stats}
    published = _without_unused(_state_dict(path), path)
    expected = {names[name]: _published_shape(name, tuple(ours[name].shape)) for name in names}
    check_tensors(expected, published, str(path))
    converted = {name: _converted(name, published[names[name]]) for name in names}
    load_weights(regressor, converted | stats, str(path))
    return regressor.eval()


def published_name(name: str) -> str:
    """What the published network calls one of our tensors."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _published_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """How the published network stores one of our tensors."""
    if name.endswith("branch.pose_token"):
        return (1, *shape)
    if name.endswith("branch.project.weight"):
        return (*shape, 1, 1)
    if name.startswith("positions."):
        return (PUBLISHED_ROWS, shape[-1])
    return shape


def _converted(name: str, tensor: Tensor) -> Tensor:
    """A published tensor in our shape; published position tables count cells from 1."""
    if name.endswith("branch.pose_token"):
        return tensor[0]
    if name.endswith("branch.project.weight"):
        return tensor[..., 0, 0]
    if name == "positions.pose":
        return tensor[0]
    return tensor[1:] if name.startswith("positions.") else tensor


def unused_names() -> set[str]:
    """Published tensors behind the trunk's last level that is read: all there, or none."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    norms = ("_bn0", "_bn1", "_bn2")
    block = [f"{layer}.{tensor}" for layer in norms for tensor in norm]
    block += [f"{layer}.{tensor}" for layer in ("_se_reduce", "_se_expand") for tensor in norm[:2]]
    block += [f"{layer}.weight" for layer in ("_expand_conv", "_depthwise_conv", "_project_conv")]
    head = [f"_bn1.{tensor}" for tensor in norm] + ["_conv_head.weight", "_fc.weight", "_fc.bias"]
    names = [f"_blocks.{index}.{name}" for index in range(11, 16) for name in block] + head
    return {f"backbone.0.body.{name}" for name in names}


def _without_unused(published: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    unused = unused_names()
    absent = sorted(unused - published.keys())
    if absent and len(absent) < len(unused):
        raise CheckpointError(
            f"{path}: a part of the unused end of the trunk is missing, so the file is damaged or "
            f"of another network: {absent[0]} and {len(absent) - 1} more"
        )
    return {name: tensor for name, tensor in published.items() if name not in unused}


def _state_dict(path: Path) -> dict[str, Tensor]:
    """The network's tensors in a published file, without wrappers' prefixes."""
    content = _loaded(path)
    if isinstance(content, Mapping):
        content = content.get("model_state_dict", content)
    tensors_only = isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )
    if not tensors_only:
        raise CheckpointError(
            f"{path}: holds neither a state dict nor one under 'model_state_dict'"
        )
    return {_unwrapped(name): tensor for name, tensor in content.items()}


def _loaded(path: Path) -> object:
    """Whatever data torch.save wrote; no code in it is ever run."""
    try:
        # The best results that a full checkpoint carries along are NumPy scalars.
        with torch.serialization.safe_globals(_numpy_scalars()):
            return read_torch(path, "cpu")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except UnreadableError as error:
        raise CheckpointError(
            f"{path}: not a file of weights: {error}; accepted: a .pth file of the published code"
        ) from error


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        for prefix in WRAPPERS:
            name = name.removeprefix(prefix)
    return name


def _numpy_scalars() -> list:
    """What torch.load must know to read NumPy scalars as data, under NumPy 1's name and 2's."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64")]
    return [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")] + [
        np.dtype,
        *kinds,
    ]
