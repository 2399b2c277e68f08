"""How much GPU memory a training needs, said before it starts, and advice when it is too much.

    peak = parameters · (4 weights + 4 gradients + 8 moments + 4 average) bytes
         + batch · (1, or 2 when recorded)
         + images of a micro-batch · kept bytes of one image
         + WORKSPACE

What the backward pass keeps of an image is not modelled but counted: one image and two go through
the network in the same precision, as shapes alone, and the difference is one image's share. With
activation checkpointing the inputs of blocks and layers are kept, and the largest of them is
computed again, one at a time.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rap import log
from rap.camera import Camera
from rap.config import Config, ModelConfig, Precision
from rap.model.backbone import Block
from rap.model.regressor import Regressor
from rap.model.transformer import EncoderLayer
from rap.train.errors import TrainingError
from rap.train.step import needs_features

GIB = 2**30
WORKSPACE = 200 * 2**20
"""Libraries' workspaces, gradients in flight and the discriminator."""


@dataclass(frozen=True)
class Kept:
    """Bytes that the backward pass needs of one image."""

    whole: int
    """When everything is kept."""
    inputs: int
    """When only the inputs of blocks and layers are."""
    largest: int
    """Of the block or layer that needs most."""
    weights: int
    """Copies of the weights in half precision, whatever the number of images."""
    num_parameters: int


def predicted_bytes(config: Config, camera: Camera) -> int:
    """Peak of the memory that a training step allocates on a GPU, without the image banks."""
    kept = kept_bytes(
        config.model, config.train.precision, camera.height, camera.width,
        with_features=needs_features(config.weights),
    )  # fmt: skip
    return _peak(config, kept, camera.height * camera.width)


def announce(config: Config, camera: Camera, device: torch.device) -> None:
    """Before a training on a GPU: the memory it will need, and advice where that is not there."""
    if device.type != "cuda":
        return
    need, free = predicted_bytes(config, camera), torch.cuda.mem_get_info(device)[0]
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
        need = predicted_bytes(replace(config, train=train), camera)
        said.append(f"train.{name} = {json.dumps(value)} ({need / GIB:.2f} GiB)")
    now = predicted_bytes(config, camera) / GIB
    if not said:
        return f"{now:.2f} GiB are predicted: lower train.batch_size or image.height"
    return f"{now:.2f} GiB are predicted; one after the other: {', '.join(said)}"


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


def _peak(config: Config, kept: Kept, num_pixels: int) -> int:
    train = config.train
    num_images = train.batch_size * (1 + bool(_renders(config)))
    num_images += train.batch_size * config.views.per_image * bool(config.weights.view)
    at_once = num_images // train.micro_batches
    per_image = kept.inputs + kept.largest if train.checkpointing else kept.whole
    state = kept.num_parameters * (4 + 4 + 8 + 4 * bool(train.ema_decay)) + kept.weights
    batch = num_images * num_pixels * 12 * (2 if train.execution == "graphed" else 1)
    return round(state + batch + at_once * per_image) + WORKSPACE


def _renders(config: Config) -> bool:
    return bool(config.weights.rendered or needs_features(config.weights))


@cache
def kept_bytes(
    model: ModelConfig, precision: Precision, height: int, width: int, *, with_features: bool
) -> Kept:
    """Counted with tensors that have no values, of the CPU and without dropout.

    There, attention keeps no scores, as on a GPU.
    """
    half = precision in ("bf16", "fp16")
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        network = Regressor(replace(model, dropout=0.0, drop_connect=0.0)).train()

        def count(num: int) -> tuple[int, int]:
            with _counting(network) as found:
                network(torch.zeros(num, 3, height, width), with_features=with_features)
            return found()

        one, largest_one = count(1)
        two, largest_two = count(2)
        network.recompute_activations(True)
        inputs = count(2)[0] - count(1)[0]
        num_parameters = sum(parameter.numel() for parameter in network.parameters())
    whole = two - one
    return Kept(whole, inputs, largest_two - largest_one, max(0, one - whole), num_parameters)


@contextmanager
def _counting(network: Regressor) -> Iterator[Callable[[], tuple[int, int]]]:
    """Count bytes kept for the backward pass: all of them, and the most in one block or layer."""
    known = {p.untyped_storage()._cdata for p in network.parameters()}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # or the next tensor may lie where a freed one lay
    before, most = [0], [0]

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            sizes[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    def enter(*_: object) -> None:
        before[0] = sum(sizes.values())

    def leave(*_: object) -> None:
        most[0] = max(most[0], sum(sizes.values()) - before[0])

    parts = [part for part in network.modules() if isinstance(part, Block | EncoderLayer)]
    hooks = [part.register_forward_pre_hook(enter) for part in parts]
    hooks += [part.register_forward_hook(leave) for part in parts]
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield lambda: (sum(sizes.values()), most[0])
    finally:
        for hook in hooks:
            hook.remove()
