"""Which photographs and views make up each step: a pure function of seed and epoch.

Every random choice of an epoch (order, views, dropout) starts from `epoch_seed`, so a resumed run
needs no stored random state and still ends where an uninterrupted one does.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rap.data.images import ImageBank, ordered


@dataclass(frozen=True)
class Banks:
    """The images of a run; renderings and views only where a term uses them."""

    photographs: ImageBank
    rendered: ImageBank | None = None
    views: ImageBank | None = None

    @property
    def all(self) -> list[ImageBank]:
        """Those that there are."""
        banks = (self.photographs, self.rendered, self.views)
        return [bank for bank in banks if bank is not None]

    def leave_room(self, feature_bytes: int, budget_gib: float) -> bool:
        """Whether features of all images fit a budget beside the images that lie on the device."""
        there = sum(bank.images.nbytes for bank in self.all if bank.resident)
        wanted = feature_bytes * sum(bank.num for bank in self.all)
        return there + wanted <= budget_gib * 2**30


@dataclass(frozen=True)
class FeatureBank:
    """A frozen trunk's features in the place of a bank's images, on the device or on the host."""

    features: Float[Tensor, "n c h w"]
    poses: Float[Tensor, "n 4 4"]
    device: torch.device
    resident: bool = True
    """Whether the features lie on the device."""

    def batches(
        self, indices: Iterable[Int64[Tensor, "b"]], num_workers: int
    ) -> Iterator[Float[Tensor, "b c h w"]]:
        """Features by index, on the device; threads gather ahead where they lie on the host.

        The index lies where the features do.
        """
        if self.resident:
            yield from (self.features.index_select(0, index) for index in indices)
            return
        pinned = self.features.is_pinned()

        def gathered(index: Int64[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
            shape = (len(index), *self.features.shape[1:])
            staging = torch.empty(shape, dtype=self.features.dtype, pin_memory=pinned)
            return torch.index_select(self.features, 0, index, out=staging)

        with closing(ordered(gathered, indices, num_workers, num_workers + 1)) as found:
            # Pinned memory is given out again only after the copies from it have ended.
            yield from (staging.to(self.device, non_blocking=pinned) for staging in found)


@dataclass(frozen=True)
class FeatureBanks:
    """Features of the images of a run; none of photographs that no term looks at."""

    photographs: FeatureBank | None
    rendered: FeatureBank | None = None
    views: FeatureBank | None = None


@dataclass(frozen=True)
class Batch:
    """One step's images, concatenated in the order of `sizes`, with their poses."""

    images: Float[Tensor, "b c h w"]
    """In [0, 1], or the features that a frozen trunk has of them."""
    world_from_camera: Float[Tensor, "b 4 4"]
    sizes: dict[str, int]
    """Images per term: `pose`, `rendered` and `view`, in this order, where a term uses them."""
    are_features: bool = False
    """Whether `images` are features."""


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
    banks: Banks | FeatureBanks,
    indices: Int64[Tensor, "s b"],
    views_per_image: int,
    num_workers: int,
    photographs: bool = True,
) -> Iterator[Batch]:
    """The batches of an epoch, in order; host-resident banks are gathered ahead by workers.

    Without `photographs`, only the renderings and views of those. The order travels to the device
    once, and the host waits for nothing afterwards.
    """
    named: list[tuple[str, ImageBank | FeatureBank | None, int]] = [
        ("pose", banks.photographs if photographs else None, 1), ("rendered", banks.rendered, 1),
        ("view", banks.views, views_per_image),
    ]  # fmt: skip
    parts = [(name, bank, per_image) for name, bank, per_image in named if bank is not None]
    there = _ahead(indices, parts[0][1].device)
    sizes, streams, positions = {}, [], []
    for name, bank, per_image in parts:
        position = view_indices(there, per_image)
        used = position if bank.resident else view_indices(indices, per_image)
        streams.append(bank.batches(iter(used), num_workers))
        sizes[name] = position.shape[1]
        positions.append((bank, position))
    for step, images in enumerate(zip(*streams, strict=True)):
        poses = [bank.poses.index_select(0, position[step]) for bank, position in positions]
        yield Batch(torch.cat(images), torch.cat(poses), sizes, isinstance(banks, FeatureBanks))


def _ahead(indices: Int64[Tensor, "s b"], device: torch.device) -> Int64[Tensor, "s b"]:
    """A copy on the device, for which the host does not wait."""
    if device.type != "cuda":
        return indices.to(device)
    return indices.pin_memory().to(device, non_blocking=True)


def view_indices(indices: Int64[Tensor, "s b"], per_image: int) -> Int64[Tensor, "s k"]:
    """Positions of each photograph's views in a bank that stores them together."""
    offsets = torch.arange(per_image, device=indices.device)
    return (indices[..., None] * per_image + offsets).flatten(1)
