"""The losses term by term, value and gradient, on what a network of the published size returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import pytest
import torch
from torch import Tensor

from benchmarks import paths, plain
from benchmarks import workloads_network as workloads
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import SEED, Scale
from rap.config import FeatureLoss
from rap.model.discriminator import Discriminator, build_discriminator
from rap.model.precision import tf32_scope
from rap.train import losses

TOLERANCE = 1e-4
"""Of float32, on values and gradients."""
LOG_WEIGHTS = (3.0, -3.0)
FORMULAS = {
    "vicreg": "vicreg", "triplet": "triplet", "ntxent": "nt_xent",
    "adversarial": "fooling_loss", "discriminator": "discriminator_loss",
}  # fmt: skip
"""Terms that are functions of `rap.train.losses`; `mse` is torch's, and the pose loss a module."""


@dataclass(frozen=True)
class Term:
    """A loss, what its gradient is taken for, and its plain twin as a function of the latter."""

    loss: Callable[[], Tensor]
    free: list[Tensor]
    twin: Callable[..., Tensor]


def by_default(term: str, batch_size: int) -> bool:
    """The terms of the published training."""
    return term == "vicreg" or (term, batch_size) == ("adversarial", 8)


@pytest.mark.parametrize(
    ("term", "batch_size"),
    combine(
        axis(["vicreg", "adversarial"], full=["pose", "triplet", "ntxent", "mse", "discriminator"]),
        axis([8], cuda=[64]), default=by_default,
    ),
)  # fmt: skip
def bench_losses(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, device: torch.device, scale: Scale,
    term: str, batch_size: int,
) -> None:  # fmt: skip
    """Forward and backward; both are those of the paper's formula in float64."""
    chosen = made(term, batch_size, scale, device)
    for part in chosen.free:
        part.requires_grad_()
    called = {name: paths.count_calls(monkeypatch, losses, name) for name in {*FORMULAS.values()}}

    def step() -> tuple[Tensor, tuple[Tensor, ...]]:
        # As a step in fp32 has it: torch's own default rounds convolutions to TF32 on a GPU.
        with tf32_scope("fp32"):
            loss = chosen.loss()
            return loss.detach(), torch.autograd.grad(loss, chosen.free)

    result = measure(step, items=batch_size, unit="images", clock="gpu", replay=True)

    ran = {name for name, calls in called.items() if calls.num}
    wanted = {FORMULAS[term]} if term in FORMULAS else set()
    result.check(ran == wanted, f"{ran or 'no formula of ours'} was computed, not {wanted}")
    exact = [part.detach().double().requires_grad_() for part in chosen.free]
    value = chosen.twin(*exact)
    off = plain.error([result.value[0]], [value])
    result.check(off < TOLERANCE, f"the value differs from float64 by {off:.1e}")
    off = plain.error(result.value[1], torch.autograd.grad(value, exact))
    result.check(off < TOLERANCE, f"the gradient differs from float64 by {off:.1e}")


def made(term: str, batch_size: int, scale: Scale, device: torch.device) -> Term:
    """A term with its inputs."""
    if term == "pose":
        return pose(batch_size, device)
    rendered, real = (part.to(device) for part in workloads.paired_features(batch_size, scale))
    if term in plain.FEATURE_LOSSES:
        kind = cast(FeatureLoss, term)
        return Term(
            lambda: losses.feature_loss(kind, rendered, real), [rendered, real],
            plain.FEATURE_LOSSES[term],
        )  # fmt: skip
    # Without its dropout, which no twin could repeat.
    network = build_discriminator(scale.model.feature_dim, SEED).to(device).eval()
    rendered, real = rendered.flatten(0, 1), real.flatten(0, 1)
    if term == "adversarial":
        return fooling(network, rendered)
    return teaching(network, rendered, real)


def pose(batch_size: int, device: torch.device) -> Term:
    """Three images per item, as a step has them."""
    inputs = workloads.predicted_poses(3 * batch_size)
    translation, rotation, true = (part.to(device) for part in inputs)
    criterion = losses.PoseLoss(*LOG_WEIGHTS, learn=False).to(device)
    log_weights = torch.tensor(LOG_WEIGHTS, dtype=torch.float64, device=device)
    exact = true.double()
    return Term(
        lambda: criterion(translation, rotation, true), [translation, rotation],
        lambda t, r: plain.pose_loss(log_weights, t, r, exact),
    )  # fmt: skip


def fooling(network: Discriminator, rendered: Tensor) -> Term:
    """Renderings are to be scored as photographs are; the discriminator stays as it is."""
    weights = plain.in_float64(network)
    network.requires_grad_(False)
    return Term(
        lambda: losses.fooling_loss(network(rendered)), [rendered],
        lambda free: ((plain.discriminator(weights, free) - 1) ** 2).mean(),
    )  # fmt: skip


def teaching(network: Discriminator, rendered: Tensor, real: Tensor) -> Term:
    """The discriminator is to tell them apart; both go through it in one call."""
    names = [name for name, _ in network.named_parameters()]
    both = torch.cat([real, rendered])
    exact = both.double()

    def twin(*free: Tensor) -> Tensor:
        weights = dict(zip(names, free, strict=True))
        on_real, on_rendered = plain.discriminator(weights, exact).chunk(2)
        return 0.5 * (((on_real - 1) ** 2).mean() + (on_rendered**2).mean())

    return Term(
        lambda: losses.discriminator_loss(*network(both).chunk(2)), [*network.parameters()], twin
    )
