"""Faults of `rap`, injected from outside: what makes a network worse while everything still runs.

    BENCHMARK_FAULT="code:weights=1@accuracy" pytest benchmarks --benchmark-compare

`weights=K` adds noise of K % to the weights of every network that is evaluated; `drop=TERM` keeps a
loss term in the log and out of the gradient; `late_views` skips the synchronisation between drawing
a view and reading it: the poses in the bank are new, the pictures those of the refresh before.
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
from rap.data.images import ImageBank
from rap.model.regressor import Prediction, Regressor
from rap.train import step

SEED = 5
TERMS = ("pose", "rendered", "view", "feature")


def sabotage(name: str) -> AbstractContextManager[object]:
    """The fault of this name, for as long as the context lasts; FaultError for an unknown one."""
    kind, _, value = name.partition("=")
    if kind == "weights" and value.replace(".", "", 1).isdigit():
        return _weights(float(value) / 100)
    if kind == "drop" and value in TERMS:
        return _drop(value)
    if name == "late_views":
        return _late_views()
    raise FaultError(
        f"code:{name} is no fault of this suite; accepted are code:weights=K (percent), "
        f"code:drop=TERM (one of {', '.join(TERMS)}), code:late_views"
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
