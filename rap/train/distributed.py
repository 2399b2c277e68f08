"""What the processes of one training do together: one rank for each GPU, over torch.distributed.

Every rank holds the whole network, all banks and the same order of photographs. Of each global
batch it takes a part; gradients are averaged, so that all ranks hold the same weights at all times.
Of each redraw it renders its own views, which then go to all banks: a photograph is in another
rank's part in every epoch, so a rank with only its own views could not follow the order of a
single process. What a view shows does not depend on who draws it: the banks are those of a single
process, bit for bit. Pixels travel as bytes; a thousand views of 240x320 are 230 MB.

Why no DistributedDataParallel: it averages in hooks of one module's backward pass, which a step
here does not fit. Learnt loss weights lie outside that module; the discriminator is frozen and
thawed within a step; weights without a gradient differ with the terms; micro-batches run backward
several times; and its buckets cut the one graph that `execution` compiles. One sum over all
gradients, laid end to end after the last backward pass, gives what it gives; it is recorded in the
CUDA graph like any kernel. What it cannot do is hide the sum behind the backward pass.

What one process and several share: the same batches, augmented alike to the bit (each rank draws
numbers for the whole batch and takes those of its images). Without dropout (`model.dropout` and
`model.drop_connect` 0, no discriminator, which has its own), the same seed therefore trains to the
same losses up to the rounding of sums, within 1e-5 over the first steps on a CPU and 1e-3 on GPUs:

    N ranks as one process with `train.micro_batches` = N, whatever else is set;
    as one process with whole batches where nothing looks at other images of a batch:
    `model.batch_norm` calibrated, `train.feature_loss` mse.

Rounding grows with the steps of a long run, between ranks as between micro-batches. Dropout is
drawn inside of kernels (attention's, compiled ones), by an image's place in its rank's batch: no
seed gives an image the mask that it has among all, so each rank draws its own.

Live BatchNorm normalises by the statistics of a rank's part, as vicreg, triplet and ntxent compare
within it; its running statistics are averaged with the gradients. SyncBatchNorm would take two more
exchanges for each of some sixty layers in every step, cannot be compiled in one piece, and runs on
no CPU.
"""

import hashlib
import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor, nn

from rap.camera import Camera
from rap.config import Config, ConfigError, Precision
from rap.data.images import ImageBank
from rap.evaluate.inference import Locate, Poses, Streamed, predict, stream
from rap.model.activation import live_norms
from rap.scene import Frame
from rap.synthesis.augment import Part
from rap.synthesis.views import RefreshStats, share
from rap.train.errors import TrainingError

CHUNK_BYTES = 64 * 2**20
"""Of images that a rank sends at once, so that exchanging a bank needs little memory."""


class RankError(TrainingError):
    """The ranks can no longer work together."""


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together; alone, nothing here does anything."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where exchanged tensors must lie."""

    @property
    def leads(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    def local(self, config: Config) -> Config:
        """The settings with this rank's part of the batch; raises ConfigError if it has none."""
        train, num_parts = config.train, self.world * config.train.micro_batches
        if train.batch_size % num_parts:
            raise ConfigError(
                f"train.batch_size = {train.batch_size} is of all processes together: "
                f"{self.world} processes with train.micro_batches = {train.micro_batches} need a "
                f"multiple of {num_parts}"
            )
        return replace(config, train=replace(train, batch_size=train.batch_size // self.world))

    def part(self, indices: Int64[Tensor, "s b"]) -> Int64[Tensor, "s k"]:
        """The photographs of each step that fall to this rank."""
        return indices.chunk(self.world, dim=1)[self.rank].contiguous()

    def part_of(self, sizes: Mapping[str, int], device: torch.device) -> Part | None:
        """Which images of the global batch this rank's batch of such `sizes` holds; None: all.

        A single process has all photographs first, then all renderings, then all views.
        """
        if self.world == 1:
            return None
        rows, first = [], 0
        for size in sizes.values():
            start = first + self.rank * size
            rows.append(torch.arange(start, start + size, device=device))
            first += self.world * size
        return Part(first, torch.cat(rows))

    def purpose(self, name: str) -> str:
        """What a random choice is for that each rank makes for itself; alone, the name."""
        return name if self.rank == 0 else f"{name} of rank {self.rank}"

    def rows(self, num: int, device: torch.device) -> Int64[Tensor, "k"] | None:
        """The rows of a bank that this rank draws; None: all."""
        return None if self.world == 1 else share(num, self.rank, self.world, device)

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, all of them in one exchange."""
        if self.world == 1 or not tensors:
            return
        laid_out = [_as_it_lies(tensor) for tensor in tensors]
        flat = torch.cat([tensor.flatten() for tensor in laid_out])
        together(dist.all_reduce, flat)
        flat /= self.world
        parts = flat.split([tensor.numel() for tensor in laid_out])
        means = [part.view(of.shape) for part, of in zip(parts, laid_out, strict=True)]
        torch._foreach_copy_(laid_out, means)

    def average_gradients(self, optimizer: torch.optim.Optimizer, *networks: nn.Module) -> None:
        """Average an optimiser's gradients, and the statistics of networks' live BatchNorms.

        Give the networks that have gathered some since the last time.
        """
        if self.world == 1:
            return
        found = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
        gradients = [parameter.grad for parameter in found if parameter.grad is not None]
        norms = live_norms(networks)
        statistics = [value for norm in norms for value in (norm.running_mean, norm.running_var)]
        self.average([*gradients, *(value for value in statistics if value is not None)])

    def mean(self, values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The mean over the ranks; not finite where it is not on one of them."""
        if self.world == 1:
            return values
        values = values.clone()
        self.average([values])
        return values

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the values of the leading one."""
        for tensor in tensors if self.world > 1 else ():
            together(dist.broadcast, tensor.detach(), 0)

    def check_same(self, what: str, text: str) -> None:
        """Raise RankError on the ranks whose text is not the leading one's."""
        if self.world == 1:
            return
        own = list(hashlib.sha256(text.encode()).digest())
        leading = torch.tensor(own, device=self.device)
        together(dist.broadcast, leading, 0)
        if leading.tolist() != own:
            raise RankError(f"rank {self.rank} of {self.world} has {what} other than rank 0's")

    def wait(self) -> None:
        """Return when every rank has come here."""
        self.mean(torch.zeros(1, device=self.device)).tolist()

    def total(self, stats: RefreshStats) -> RefreshStats:
        """What all ranks' views cost together; the rounds are the most that one of them took."""
        if self.world == 1:
            return stats
        every = self.gather(torch.tensor([[*vars(stats).values()]], device=self.device))
        return reduce(RefreshStats.beside, (RefreshStats(*row) for row in every.tolist()))

    def gather(self, own: Shaped[Tensor, "k *row"]) -> Shaped[Tensor, "n *row"]:
        """Every rank's rows, in the ranks' order; each must bring as many."""
        if self.world == 1:
            return own
        every = own.new_empty(self.world * len(own), *own.shape[1:])
        together(dist.all_gather, list(every.chunk(self.world)), own.contiguous())
        return every

    @torch.no_grad()
    def gather_bank(self, bank: ImageBank) -> None:
        """Give every bank the rows that each rank has drawn (`rows`)."""
        per_call = max(1, CHUNK_BYTES // bank.images[0].nbytes) * self.world
        for start in range(0, bank.num if self.world > 1 else 0, per_call):
            rows = torch.arange(start, min(start + per_call, bank.num), device=bank.device)
            count = -(-len(rows) // self.world)
            # The last ranks may have a row less: theirs is filled up, and left out again.
            own = start + self.rank + self.world * torch.arange(count, device=bank.device)
            own = own.clamp(max=bank.num - 1)
            images = bank.images[own.to(bank.images.device)].to(self.device)
            bank.write(rows, self._woven(images)[: len(rows)],
                       self._woven(bank.poses[own])[: len(rows)])  # fmt: skip

    def _woven(self, own: Shaped[Tensor, "k *row"]) -> Shaped[Tensor, "n *row"]:
        """Every rank's rows in turn: the first of each, then the second."""
        every = self.gather(own)
        return every.unflatten(0, (self.world, -1)).transpose(0, 1).flatten(0, 1)


def current() -> Ranks:
    """Where this process stands among those that `launch.joined` has brought together."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return Ranks()
    on_gpu = dist.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def together(exchange: Callable[..., object], *arguments: object) -> None:
    """Call an exchange of torch.distributed; raises RankError when another rank has ended."""
    try:
        exchange(*arguments)
    except RuntimeError as error:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise
        # Of gloo: [where in its source] what happened. What else it may be.
        reason = re.sub(r"^\[[^]]*\]\s*", "", str(error).strip().splitlines()[0]).split(". ")[0]
        raise RankError(f"another rank has ended, so all do ({reason})") from error


def _as_it_lies(tensor: Tensor) -> Tensor:
    """A view whose elements follow each other in memory: many of them are copied at once."""
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1)
    return tensor


def own_batches(num: int, batch_size: int, rank: int, world: int) -> list[range]:
    """The batches of one process that fall to a rank: whole ones, so that it computes the same."""
    starts = range(rank * batch_size, num, world * batch_size)
    return [range(start, min(start + batch_size, num)) for start in starts]


def predict_shared(
    regressor: nn.Module,
    images: UInt8[Tensor, "n 3 h w"],
    device: torch.device,
    batch_size: int = 64,
    precision: Precision = "fp32",
) -> Poses:
    """`evaluate.predict` by all ranks, each some of the batches; every rank gets all poses."""
    ranks = current()
    if ranks.world == 1:
        return predict(regressor, images, device, batch_size, precision)
    batches = own_batches(len(images), batch_size, ranks.rank, ranks.world)
    own = torch.cat([images[:0], *(images[batch.start : batch.stop] for batch in batches)])
    poses = predict(regressor, own, device, batch_size, precision)
    return _in_order(ranks, poses, len(images), batch_size)


def stream_shared(
    frames: Sequence[Frame],
    camera: Camera,
    locate: Locate,
    device: torch.device,
    batch_size: int = 64,
    num_workers: int = 4,
) -> Streamed:
    """`evaluate.stream` by all ranks, each some of the batches; every rank gets all poses."""
    ranks = current()
    if ranks.world == 1:
        return stream(frames, camera, locate, device, batch_size, num_workers)
    ranks.wait()
    start = time.perf_counter()
    batches = own_batches(len(frames), batch_size, ranks.rank, ranks.world)
    own = [frames[index] for batch in batches for index in batch]
    poses = stream(own, camera, locate, device, batch_size, num_workers).poses
    poses = _in_order(ranks, poses, len(frames), batch_size)
    return Streamed(poses, len(frames) / (time.perf_counter() - start))


def _in_order(ranks: Ranks, own: Poses, num: int, batch_size: int) -> Poses:
    """All ranks' poses in the order of the images."""
    batches = [own_batches(num, batch_size, rank, ranks.world) for rank in range(ranks.world)]
    most = max(sum(map(len, found)) for found in batches)
    padded = own.new_zeros(most, 4, 4)
    padded[: len(own)] = own
    every = ranks.gather(padded.to(ranks.device)).cpu().unflatten(0, (ranks.world, most))
    poses = own.new_empty(num, 4, 4)
    for found, theirs in zip(batches, every, strict=True):
        index = [position for batch in found for position in batch]
        poses[index] = theirs[: len(index)]
    return poses
