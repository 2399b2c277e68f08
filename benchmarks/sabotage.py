"""Faults of `rap`, injected from outside: what makes a network worse while everything still runs.

    BENCHMARK_FAULT="code:weights=1@accuracy" pytest benchmarks --benchmark-compare

`weights=K` adds noise of K % to the weights of every network that is evaluated; `drop=TERM` keeps a
loss term in the log and out of the gradient; `late_views` skips the synchronisation between drawing
a view and reading it: the poses in the bank are new, the pictures those of the refresh before.
`reach=K` has views lie and turn K % as far from their photographs as asked; 0: exactly at them.
`idle=PART` leaves out what moves the network, its discriminator or its average; `parts=last` has
the gradients of all micro-batches but the last forgotten, `parts=sum` has them added up instead of
averaged; `keep` saves every activation in spite of `train.checkpointing`.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from benchmarks.harness.faults import FaultError
from rap.config import Config
from rap.data.images import ImageBank
from rap.model.regressor import Prediction, Regressor
from rap.synthesis import views
from rap.train import step

SEED = 5
TERMS = ("pose", "rendered", "view", "feature")
"""Of the first pass; the adversarial one is a fault of its own."""
Patch = AbstractContextManager[object]


def sabotage(name: str) -> AbstractContextManager[object]:
    """The fault of this name, for as long as the context lasts; FaultError for an unknown one."""
    kind, _, value = name.partition("=")
    if kind in BY_PERCENT and value.replace(".", "", 1).isdigit():
        return BY_PERCENT[kind](float(value) / 100)
    if kind == "drop" and value in TERMS:
        return _drop(value)
    if name in PLAIN:
        return PLAIN[name]()
    raise FaultError(
        f"code:{name} is no fault of this suite; accepted are code:weights=K, code:reach=K "
        f"(percent), code:drop=TERM (one of {', '.join(TERMS)}), code:" + ", code:".join(PLAIN)
    )


@contextmanager
def _weights(share: float) -> Iterator[None]:
    """Every network is disturbed once, when it first answers without being trained."""
    original = Regressor.forward
    disturbed: WeakSet[Regressor] = WeakSet()

    @functools.wraps(original)
    def forward(self: Regressor, *args: Any, **kwargs: Any) -> Prediction:  # noqa: ANN401 (passed on)
        if not self.training and self not in disturbed:
            disturbed.add(self)
            _disturb(self, share)
        return original(self, *args, **kwargs)

    with mock.patch.object(Regressor, "forward", forward):
        yield


@torch.no_grad()
def _disturb(network: torch.nn.Module, share: float) -> None:
    generator = torch.Generator().manual_seed(SEED)
    for value in network.parameters():
        noise = torch.randn(value.shape, generator=generator).to(value)
        value.add_(share * value.square().mean().sqrt() * noise)


@contextmanager
def _drop(term: str) -> Iterator[None]:
    original: Callable[..., Any] = step.compare

    @functools.wraps(original)
    def compare(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (passed on)
        terms, features = original(*args, **kwargs)
        return {n: v.detach() if n == term else v for n, v in terms.items()}, features

    with mock.patch.object(step, "compare", compare):
        yield


def _drop_adversarial() -> Patch:
    original = step.fooling_loss
    return mock.patch.object(step, "fooling_loss", lambda scores: original(scores).detach())


def _nothing(*_args: object, **_kwargs: object) -> None:
    """Instead of what moves weights."""


def _idle_network() -> Patch:
    return mock.patch.object(torch.amp.GradScaler, "step", _nothing)


@contextmanager
def _idle_discriminator() -> Iterator[None]:
    original = step.train_discriminator

    @functools.wraps(original)
    def train(learner: step.Learner, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 (passed on)
        assert learner.discriminator_optimizer is not None
        with mock.patch.object(learner.discriminator_optimizer, "step", _nothing):
            return original(learner, *args, **kwargs)

    with mock.patch.object(step, "train_discriminator", train):
        yield


def _idle_average() -> Patch:
    return mock.patch.object(step, "update_average", _nothing)


def _last_part() -> Patch:
    original: Callable[..., Any] = step.loss_terms

    @functools.wraps(original)
    def loss_terms(learner: step.Learner, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (passed on)
        learner.optimizer.zero_grad(set_to_none=True)
        return original(learner, *args, **kwargs)

    return mock.patch.object(step, "loss_terms", loss_terms)


def _sum_of_parts() -> Patch:
    original: Callable[..., Any] = step.loss_terms

    @functools.wraps(original)
    def loss_terms(learner: step.Learner, batch: object, config: Config, **kwargs: Any) -> Any:  # noqa: ANN401 (passed on)
        more = config.train.micro_batches - 1
        terms = original(learner, batch, config, **kwargs)
        return {name: value + more * (value - value.detach()) for name, value in terms.items()}

    return mock.patch.object(step, "loss_terms", loss_terms)


def _keep() -> Patch:
    return mock.patch.object(Regressor, "recompute_activations", _nothing)


@contextmanager
def _late_views() -> Iterator[None]:
    original = ImageBank.write
    written: WeakKeyDictionary[ImageBank, Tensor] = WeakKeyDictionary()

    @functools.wraps(original)
    def write(
        self: ImageBank, index: Tensor, images: Tensor, poses: Tensor, where: Tensor | None = None
    ) -> None:
        before = written.get(self)
        written[self] = images.clone()
        late = before is not None and before.shape == images.shape
        original(self, index, before if late and before is not None else images, poses, where)

    with mock.patch.object(ImageBank, "write", write):
        yield


def _reach(share: float) -> Patch:
    original: Callable[..., Tensor] = views.sample_poses

    def sample_poses(near: Tensor, **given: Any) -> Tensor:  # noqa: ANN401 (passed on)
        limits = {name: share * given[name] for name in ("translation_m", "rotation_deg")}
        return original(near, **(given | limits))

    return mock.patch.object(views, "sample_poses", sample_poses)


BY_PERCENT: dict[str, Callable[[float], Patch]] = {"weights": _weights, "reach": _reach}
PLAIN: dict[str, Callable[[], Patch]] = {
    "late_views": _late_views, "drop=adversarial": _drop_adversarial, "idle=network": _idle_network,
    "idle=discriminator": _idle_discriminator, "idle=average": _idle_average,
    "parts=last": _last_part, "parts=sum": _sum_of_parts, "keep": _keep,
}  # fmt: skip
"""Faults without a number, by name."""
