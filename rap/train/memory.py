"""How much GPU memory a training needs, said before it starts, and advice when it is too much.

    peak = the step's tensors, counted by running it on shapes alone (`footprint`)
         + a second copy of the batch, where it is laid out channels-last or recorded
         + half a MiB for each tensor above one: the end of its block, which no other one gets
         + WORKSPACE for each thread (forward, backward) and stream that multiplies matrices

Where a frozen trunk's features are kept on the device, it is the largest of that, of a step on
features beside all that are kept, and of what the trunk takes while they are computed, again beside
all of them; a recorded step holds its memory meanwhile.

A step that runs as it is written, or recorded so, allocates this to within `TOLERANCE`: what cuDNN
takes while a convolution runs is its own choice. A compiled one computes cheap maps again instead
of keeping them, so for it the number is an upper bound.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from rap import log
from rap.camera import Camera
from rap.config import Config
from rap.kernels import ran_out
from rap.splat.host import host_free_bytes
from rap.train.batches import Banks
from rap.train.errors import TrainingError
from rap.train.footprint import LARGE_BYTES, Footprint, cache_footprint, footprint
from rap.train.inputs import CACHED_AT_ONCE
from rap.train.schedule import num_learning_epochs
from rap.train.step import needs_features

GIB = 2**30
WORKSPACE = 32 * 2**20
"""Of cuBLAS on Hopper, for each handle and stream; 8 MiB on other GPUs."""
TOLERANCE = 0.25
"""Of the prediction, either way."""
_ON_HOST = "DefaultCPUAllocator"
_HOST_ADVICE = "lower image.height, views.per_image or train.batch_size"
NO_SHAPES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
             ValueError)  # fmt: skip
"""What a network raises that looks at values which it does not have: some of timm's."""


class NotPredictedError(Exception):
    """The network does not run on tensors without values."""


def predicted_bytes(config: Config, camera: Camera, banks: Banks | None = None) -> int:
    """Peak of the memory that a training allocates on a GPU, without the banks of images.

    Features of the images in `banks` count where the settings keep them on the device. Raises
    NotPredictedError where that cannot be said.
    """
    try:
        of_step = _of_step(config, footprint(config, camera.height, camera.width))
        if banks is None or not config.train.cached_features:
            return of_step
        return _with_cache(config, camera, banks, of_step)
    except NO_SHAPES as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise NotPredictedError(
            f"model.backbone = {config.model.backbone!r} does not run on shapes alone "
            f"({type(error).__name__}: {reason})"
        ) from error


def _of_step(config: Config, found: Footprint) -> int:
    recorded = "graphed" in config.train.execution
    copies = found.images * (config.train.channels_last or recorded)
    num_workspaces = 2 * (1 + recorded)
    return found.peak + copies + found.num_large * LARGE_BYTES // 2 + num_workspaces * WORKSPACE


def _with_cache(config: Config, camera: Camera, banks: Banks, learning: int) -> int:
    """The peak of a run that keeps features, given that of a step that trains the trunk."""
    size = camera.height, camera.width
    at_once = min(CACHED_AT_ONCE, max(bank.num for bank in banks.all))
    cached = cache_footprint(config, *size, at_once)
    if not banks.leave_room(cached.each, config.image.device_budget_gib):
        return learning
    kept = cached.each * sum(bank.num for bank in banks.all)
    found = footprint(config, *size, frozen=True)
    frozen, learning = _of_step(config, found), learning * (num_learning_epochs(config) > 0)
    if "graphed" in config.train.execution:
        return max(frozen, learning) + kept + cached.filling
    return max(learning, frozen + kept, found.state + kept + cached.filling + 2 * WORKSPACE)


def announce(
    config: Config, camera: Camera, device: torch.device, banks: Banks | None = None
) -> None:
    """Before a training on a GPU: the memory it will need, and advice where that is not there."""
    if device.type != "cuda":
        return
    try:
        need = predicted_bytes(config, camera, banks)
    except NotPredictedError as error:
        log.info(f"the memory of a step is not predicted: {error}")
        return
    free = torch.cuda.mem_get_info(device)[0]
    line = f"predicted peak memory of training: {need / GIB:.1f} GiB of {free / GIB:.1f} GiB free"
    if need > free:
        log.warn(f"{line}; {_advice(config, camera, banks)}")
    else:
        log.info(line)


@contextmanager
def out_of_memory_explained(
    config: Config, camera: Camera, banks: Banks | None = None
) -> Iterator[None]:
    """Turn an allocator's error into one that names the settings that help, for a GPU by how much.

    The host's, which on a CPU is all there is, comes as a plain RuntimeError or a MemoryError.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not ran_out(error):
            raise
        if isinstance(error, MemoryError) or _ON_HOST in str(error):
            raise TrainingError(
                f"the host's memory does not suffice ({_asked_for(error)}); {_HOST_ADVICE}"
            ) from error
        reason = str(error).split(". ")[0]
        raise TrainingError(
            f"the GPU's memory does not suffice ({reason}); {_advice(config, camera, banks)}; "
            "image.device_budget_gib = 0 keeps images and cached features in host memory"
        ) from error


def _asked_for(error: Exception) -> str:
    """The size that the host's allocator could not give, or its own words."""
    found = re.search(r"allocate (\d+) bytes", str(error))
    return f"no {int(found[1]) / GIB:.1f} GiB at once" if found else str(error) or "no size told"


def check_host_memory(
    num_photographs: int, camera: Camera, config: Config, device: torch.device
) -> None:
    """Raise TrainingError, before images are read, where those of a run cannot be held.

    Counted are uint8 images that are there at one time: the photographs as they were decoded and
    those to train on, and each bank that is not kept on a GPU.
    """
    free = host_free_bytes()
    each = 3 * camera.height * camera.width
    num = num_photographs - round(num_photographs * config.train.validation_fraction)
    with_renderings = config.weights.rendered or needs_features(config.weights)
    images = {
        "photographs": num,
        "renderings of them": num if with_renderings else 0,
        "views": num * config.views.per_image if config.weights.view else 0,
    }
    budget = config.image.device_budget_gib * GIB if device.type == "cuda" else 0
    kept = {name: num * each for name, num in images.items() if num * each > budget}
    need = (num_photographs + num) * each + sum(kept.values())
    if free is not None and need > free:
        parts = ", ".join(f"{name} {size / GIB:.1f} GiB" for name, size in kept.items())
        raise TrainingError(
            f"the images need {need / GIB:.1f} GiB of host memory, {free / GIB:.1f} GiB are free: "
            f"{num_photographs} photographs of {camera.width}x{camera.height} pixels and what is "
            f"kept ({parts}); lower image.height or views.per_image"
        )


def _advice(config: Config, camera: Camera, banks: Banks | None = None) -> str:
    """Settings that save memory, the cheapest first, with what is predicted for each of them."""
    said, train = [], config.train
    now = _in_gib(config, camera, banks)
    now = f"{now} are predicted" if now else "what a step needs is not predicted"
    if banks is not None and train.cached_features and config.image.device_budget_gib:
        config = replace(config, image=replace(config.image, device_budget_gib=0.0))
        need = _in_gib(config, camera, banks)
        said.append("image.device_budget_gib = 0" + (f" ({need})" if need else ""))
    for change in _savings(config):
        train = replace(train, **change)
        (name, value), *_ = change.items()
        need = _in_gib(replace(config, train=train), camera, banks)
        said.append(f"train.{name} = {json.dumps(value)}" + (f" ({need})" if need else ""))
    if not said:
        return f"{now}: lower train.batch_size or image.height"
    return f"{now}; one after the other: {', '.join(said)}"


def _in_gib(config: Config, camera: Camera, banks: Banks | None) -> str:
    """The prediction in words; empty where there is none."""
    try:
        return f"{predicted_bytes(config, camera, banks) / GIB:.2f} GiB"
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
