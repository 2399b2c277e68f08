"""What a training step allocates, found by running it on tensors that have shapes but no values.

The step itself runs (`step.step`: forward, backward and optimisers), on the CPU, where attention
keeps no scores either. Every tensor is followed from its birth to its end: what the backward pass
needs, what is in flight, gradients, moments and the discriminator are counted, nothing is modelled.
Two micro-batches stand for many: from the second on, gradients exist.

What cannot be seen this way: workspaces of libraries, and what the allocator loses.
"""

import copy
import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rap.config import Config, Precision
from rap.model.regressor import build_regressor
from rap.train.batches import Batch
from rap.train.inputs import trunk_features
from rap.train.step import Learner, build_learner, needs_features, needs_photographs, step

BLOCK_BYTES = 512
"""What the allocator rounds up to."""
LARGE_BYTES = 2**20
"""Above it, the end of a block stays unused where it is smaller than this."""
ON_SHAPES: dict[Precision, Precision] = {
    "fp32": "fp32", "tf32": "fp32", "bf16": "bf16", "fp16": "bf16",
}  # fmt: skip
"""What runs on shapes alone, with tensors as large: fp16's scaler reads one."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of a step's tensors, at the moment when they are most."""

    peak: int
    """All of them: state, images, and what the step keeps and has in flight."""
    state: int
    """Of these: weights, moments and the average, which outlive the step."""
    images: int
    """Of these: the batch as it comes."""
    num_large: int
    """Tensors above 1 MiB at the peak."""


def image_counts(config: Config) -> dict[str, int]:
    """Images of a step by term, as `Batch.sizes` has them."""
    num = config.train.batch_size
    sizes = {"pose": num} if needs_photographs(config.weights) else {}
    if config.weights.rendered or needs_features(config.weights):
        sizes["rendered"] = num
    if config.weights.view:
        sizes["view"] = num * config.views.per_image
    return sizes


@dataclass(frozen=True)
class CacheFootprint:
    """Bytes of a frozen trunk's features that are kept (`train.cached_features`)."""

    each: int
    """Of one image."""
    filling: int
    """What the trunk takes besides weights while it computes some."""


def footprint(config: Config, height: int, width: int, frozen: bool = False) -> Footprint:
    """A step's tensors for images of a size; raises what a network without values raises.

    `frozen`: of a step that is given the features of a trunk that no longer learns.
    """
    # What changes no tensor's size is left out, so that an answer is found again.
    plain = Config(model=config.model, weights=config.weights, views=config.views)
    train = replace(
        plain.train, batch_size=config.train.batch_size, micro_batches=config.train.micro_batches,
        precision=ON_SHAPES[config.train.precision], checkpointing=config.train.checkpointing,
        ema_decay=0.5 * bool(config.train.ema_decay), feature_loss=config.train.feature_loss,
        grad_clip=float(bool(config.train.grad_clip)),
    )  # fmt: skip
    return _footprint(replace(plain, train=train), height, width, frozen)


def cache_footprint(config: Config, height: int, width: int, at_once: int) -> CacheFootprint:
    """What features of images of a size take, `at_once` in each call of the trunk; raises as above.

    What is drawn at random on the images before is smaller than what the trunk makes of them.
    """
    plain, train = Config(model=config.model), config.train
    settings = replace(
        plain.train, precision=ON_SHAPES[train.precision], channels_last=train.channels_last
    )
    return _cache_footprint(replace(plain, train=settings), height, width, at_once)


@cache
def _cache_footprint(config: Config, height: int, width: int, at_once: int) -> CacheFootprint:
    regressor = build_regressor(config.model, seed=0).train()
    without_values = FakeTensorMode()
    with FakeCopyMode(without_values):
        regressor = copy.deepcopy(regressor)
    with without_values, Alive() as alive:
        images = torch.zeros(at_once, 3, height, width)
        features = trunk_features(regressor, images, config)
        return CacheFootprint(features[0].nbytes, alive.peak)


@cache
def _footprint(config: Config, height: int, width: int, frozen: bool) -> Footprint:
    sizes, num_parts = image_counts(config), config.train.micro_batches
    shown = min(2, num_parts)
    part = {name: num // num_parts * shown for name, num in sizes.items()}
    config = replace(config, train=replace(config.train, micro_batches=shown))
    regressor = build_regressor(config.model, seed=0)
    average = copy.deepcopy(regressor) if config.train.ema_decay else None
    learner = build_learner(regressor, average, config, torch.device("cpu"))
    without_values = FakeTensorMode()
    with FakeCopyMode(without_values):
        learner = copy.deepcopy(learner)
    with without_values:
        one = torch.zeros(1, 3, height, width)
        if frozen:
            one = trunk_features(learner.regressor, one, config)
    with without_values, _NoScores(), Alive() as alive:
        for network in (learner.regressor, learner.average, learner.discriminator):
            if network is not None:
                alive.follow([*network.parameters(), *network.buffers()])
        images = one.new_zeros(sum(sizes.values()), *one.shape[1:])
        num = sum(part.values())
        batch = Batch(images[:num], torch.zeros(num, 4, 4), part, frozen)
        _make_moments(learner)
        step(learner, batch, config)
        learner.optimizer.zero_grad(set_to_none=True)
        of_images = images.untyped_storage().nbytes()
        return Footprint(alive.peak, alive.now - of_images, of_images, alive.num_large)


def _make_moments(learner: Learner) -> None:
    """What the optimisers of a training hold from its first step on."""
    for optimizer in (learner.optimizer, learner.discriminator_optimizer):
        if optimizer is not None:
            for parameter in itertools.chain(
                *(group["params"] for group in optimizer.param_groups)
            ):
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


class Alive(TorchDispatchMode):
    """Bytes of all tensors that are made inside, as an allocator would count them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.num_large = 0
        self._sizes: dict[int, int] = {}
        self._num_large = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the operator returns)
        made = func(*args, **(kwargs or {}))
        self.follow(leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor))
        return made

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Count these tensors from now on, until they end."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._sizes:
                continue
            size = -(-storage.nbytes() // BLOCK_BYTES) * BLOCK_BYTES
            self._sizes[key] = size
            weakref.finalize(storage, self._end, key)
            self.now += size
            self._num_large += size > LARGE_BYTES
            if self.now > self.peak:
                self.peak, self.num_large = self.now, self._num_large

    def _end(self, key: int) -> None:
        size = self._sizes.pop(key)
        self.now -= size
        self._num_large -= size > LARGE_BYTES


class _NoScores(TorchFunctionMode):
    """Attention with dropout keeps no scores on a GPU; on a CPU it would."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        named = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            named["dropout_p"] = 0.0
        return func(*args, **named)
