"""Which photographs and views make up each step: a pure function of seed and epoch.

Every random choice of an epoch (order, views, dropout) starts from `epoch_seed`, so a resumed run
needs no stored random state and still ends where an uninterrupted one does.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rap.data.images import ImageBank


@dataclass(frozen=True)
class Banks:
    """The images of a run; renderings and views only where a term uses them."""

    photographs: ImageBank
    rendered: ImageBank | None = None
    views: ImageBank | None = None


@dataclass(frozen=True)
class Batch:
    """One step's images, concatenated in the order of `sizes`, with their poses."""

    images: Float[Tensor, "b 3 h w"]
    world_from_camera: Float[Tensor, "b 4 4"]
    sizes: dict[str, int]
    """Images per term: `pose` first, then `rendered`, then `view`."""


def epoch_seed(seed: int, epoch: int, purpose: str) -> int:
    """A seed of its own for each (run, epoch, purpose)."""
    entropy = [seed, epoch, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def epoch_generator(
    seed: int, epoch: int, purpose: str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator on a device, seeded by `epoch_seed`."""
    return torch.Generator(device=device).manual_seed(epoch_seed(seed, epoch, purpose))


def epoch_indices(num: int, batch_size: int, seed: int, epoch: int) -> Int64[Tensor, "s b"]:
    """Every photograph once, in random order; the last batch is filled from the start.

    All batches have one size (the published code drops the remainder of each epoch).
    """
    order = torch.randperm(num, generator=epoch_generator(seed, epoch, "order"))
    num_steps = -(-num // batch_size)
    return order.repeat(-(-num_steps * batch_size // num))[: num_steps * batch_size].view(
        num_steps, batch_size
    )


def batches(
    banks: Banks, indices: Int64[Tensor, "s b"], views_per_image: int, num_workers: int
) -> Iterator[Batch]:
    """The batches of an epoch, in order; host-resident banks are gathered ahead by workers."""
    parts: list[tuple[str, ImageBank, Int64[Tensor, "s k"]]] = [
        ("pose", banks.photographs, indices)
    ]
    if banks.rendered is not None:
        parts.append(("rendered", banks.rendered, indices))
    if banks.views is not None:
        parts.append(("view", banks.views, view_indices(indices, views_per_image)))
    sizes = {name: index.shape[1] for name, _, index in parts}
    index_on_device = [index.to(bank.poses.device) for _, bank, index in parts]
    streams = [
        bank.batches(iter(index if bank.resident else host), num_workers)
        for (_, bank, host), index in zip(parts, index_on_device, strict=True)
    ]
    for step, images in enumerate(zip(*streams, strict=True)):
        poses = [
            bank.poses[i[step]] for (_, bank, _), i in zip(parts, index_on_device, strict=True)
        ]
        yield Batch(torch.cat(images), torch.cat(poses), sizes)


def view_indices(indices: Int64[Tensor, "s b"], per_image: int) -> Int64[Tensor, "s k"]:
    """Positions of each photograph's views in a bank that stores them together."""
    return (indices[..., None] * per_image + torch.arange(per_image)).flatten(1)
