"""How much GPU memory a training needs, said before it starts, and advice when it is too much.

    peak = the step's tensors, counted by running it on shapes alone (`footprint`)
         + a second copy of the batch, where it is laid out channels-last or recorded
         + half a MiB for each tensor above one: the end of its block, which no other one gets
         + WORKSPACE for each thread (forward, backward) and stream that multiplies matrices

A step that runs as it is written, or recorded so, allocates this to within `TOLERANCE`: what cuDNN
takes while a convolution runs is its own choice. A compiled one computes cheap maps again instead
of keeping them, so for it the number is an upper bound.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from rap import log
from rap.camera import Camera
from rap.config import Config
from rap.train.errors import TrainingError
from rap.train.footprint import LARGE_BYTES, footprint

GIB = 2**30
WORKSPACE = 32 * 2**20
"""Of cuBLAS on Hopper, for each handle and stream; 8 MiB on other GPUs."""
TOLERANCE = 0.25
"""Of the prediction, either way."""
NO_SHAPES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
             ValueError)  # fmt: skip
"""What a network raises that looks at values which it does not have: some of timm's."""


class NotPredictedError(Exception):
    """The network does not run on tensors without values."""


def predicted_bytes(config: Config, camera: Camera) -> int:
    """Peak of the memory that a training step allocates on a GPU, without the image banks.

    Raises NotPredictedError where that cannot be said.
    """
    train = config.train
    try:
        found = footprint(config, camera.height, camera.width)
    except NO_SHAPES as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise NotPredictedError(
            f"model.backbone = {config.model.backbone!r} does not run on shapes alone "
            f"({type(error).__name__}: {reason})"
        ) from error
    recorded = "graphed" in train.execution
    copies = found.images * (train.channels_last or recorded)
    num_workspaces = 2 * (1 + recorded)
    return found.peak + copies + found.num_large * LARGE_BYTES // 2 + num_workspaces * WORKSPACE


def announce(config: Config, camera: Camera, device: torch.device) -> None:
    """Before a training on a GPU: the memory it will need, and advice where that is not there."""
    if device.type != "cuda":
        return
    try:
        need = predicted_bytes(config, camera)
    except NotPredictedError as error:
        log.info(f"the memory of a step is not predicted: {error}")
        return
    free = torch.cuda.mem_get_info(device)[0]
    line = f"predicted peak memory of a step: {need / GIB:.1f} GiB of {free / GIB:.1f} GiB free"
    if need > free:
        log.warn(f"{line}; {_advice(config, camera)}")
    else:
        log.info(line)


@contextmanager
def out_of_memory_explained(config: Config, camera: Camera) -> Iterator[None]:
    """Turn the allocator's error into one that names the settings that help, by how much."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
        raise TrainingError(
            f"the GPU's memory does not suffice ({reason}); {_advice(config, camera)}; "
            "image.device_budget_gib = 0 keeps the images in host memory"
        ) from error


def _advice(config: Config, camera: Camera) -> str:
    """Settings that save memory, the cheapest first, with what is predicted for each of them."""
    said, train = [], config.train
    for change in _savings(config):
        train = replace(train, **change)
        (name, value), *_ = change.items()
        need = _in_gib(replace(config, train=train), camera)
        said.append(f"train.{name} = {json.dumps(value)}" + (f" ({need})" if need else ""))
    now = _in_gib(config, camera)
    now = f"{now} are predicted" if now else "what a step needs is not predicted"
    if not said:
        return f"{now}: lower train.batch_size or image.height"
    return f"{now}; one after the other: {', '.join(said)}"


def _in_gib(config: Config, camera: Camera) -> str:
    """The prediction in words; empty where there is none."""
    try:
        return f"{predicted_bytes(config, camera) / GIB:.2f} GiB"
    except NotPredictedError:
        return ""


def _savings(config: Config) -> list[dict[str, Any]]:
    """Changes of the training settings that need less memory for the same batch."""
    train, changes = config.train, []
    if train.precision in ("fp32", "tf32"):
        changes.append({"precision": "bf16"})
    if not train.checkpointing:
        changes.append({"checkpointing": True})
    least = 2 if config.weights.feature and train.feature_loss == "vicreg" else 1
    parts = [num for num in range(train.micro_batches + 1, train.batch_size // least + 1)
             if train.batch_size % num == 0]  # fmt: skip
    changes += [{"micro_batches": num} for num in sorted({parts[0], parts[-1]} if parts else ())]
    return changes
