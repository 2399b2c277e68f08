"""What a first step did, against the plain one: its gradients part by part, and what they moved.

After one step Adam's first moment is the gradient times 1 - beta1: it tells of a recorded and of a
compiled step, whose gradients nobody else can read, as well as of a plain one.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks import plain, workloads
from benchmarks.paths import Calls
from rap.config import Config, Precision
from rap.model.precision import tf32_scope
from rap.model.regressor import Regressor
from rap.train.batches import Batch
from rap.train.step import Learner, Terms, compare, optimise

LIMIT: dict[Precision, float] = {"fp32": 0.02, "tf32": 0.15, "bf16": 0.28, "fp16": 0.28}
"""Of the norm of what a part's gradient is off by, over its norm.

On a CPU bf16 has 0.18 with the small network and 0.04 with the published one, fp32 4e-6. Without
one of three pose terms it is 0.33, of one micro-batch in four 0.75.
"""
MOVE_LIMIT = 0.05
"""Of a move, from that by Adam's formula."""
LOUD = 1e4
"""The adversarial term's factor where it is to be heard; without, it is 3 % of a gradient."""
HEARD: dict[Precision, float] = {"fp32": 0.02, "tf32": 0.5, "bf16": 0.9, "fp16": 0.9}
"""As `LIMIT`, of such a gradient: 1 without the term, 0.25 in bf16 on a CPU."""
NUM_TRIES = 24
"""Of fp16: its gradient scaler begins with a scale that may overflow, and halves it."""
EPS = 1e-8
"""Adam's."""
FirstStep = tuple[dict[str, Tensor], dict[str, float]]
"""Gradients of the parts, and how far their moves are from Adam's formula, as a share of them."""


def plain_gradients(
    fresh: Learner, batch: Batch, config: Config
) -> tuple[Terms, dict[str, Tensor]]:
    """Terms and gradients of a fresh learner's step in fp32, by the plain losses."""
    regressor, discriminator = copy.deepcopy(fresh.regressor).train(), _discriminator(fresh)
    torch.manual_seed(workloads.SEED)

    def critic(weights: plain.Weights, features: Tensor) -> Tensor:
        return functional_call(discriminator, dict(weights), (features,))

    leaves = {name: value.detach().clone().requires_grad_()
              for name, value in discriminator.named_parameters()}  # fmt: skip
    sizes, train = list(batch.sizes.values()), config.train
    images = dict(zip(batch.sizes, batch.images.split(sizes), strict=True))
    poses = dict(zip(batch.sizes, batch.world_from_camera.split(sizes), strict=True))
    log_weights = torch.tensor([train.translation_log_weight, train.rotation_log_weight])
    with tf32_scope("fp32"):
        terms = plain.gather_gradients(
            lambda some, num: regressor(some, with_features=True, num_featured=num),
            plain.Game(critic, leaves, train.discriminator_lr, EPS), images, poses,
            vars(config.weights), log_weights.to(batch.images.device), train.micro_batches,
        )  # fmt: skip
    found = by_part(regressor, leaves, lambda weight: weight.grad)
    return terms, found


def by_part(
    regressor: Regressor, game: Mapping[str, Tensor], of: Callable[[Tensor], Tensor | None]
) -> dict[str, Tensor]:
    """Something of all trained weights, part by part, in a row; zero where a weight has none."""
    parts = {
        name: [weight for weight in part.parameters() if weight.requires_grad]
        for name, part in regressor.named_children()
    }
    found = {
        part: [(weight, of(weight)) for weight in weights]
        for part, weights in {**parts, "discriminator": list(game.values())}.items() if weights
    }  # fmt: skip
    return {
        part: torch.cat([
            (torch.zeros_like(weight) if value is None else value.detach()).flatten()
            for weight, value in pairs
        ])
        for part, pairs in found.items()
    }  # fmt: skip


def of_learner(learner: Learner, of: Callable[[Tensor], Tensor | None]) -> dict[str, Tensor]:
    """The same of a learner's weights."""
    return by_part(learner.regressor, dict(_discriminator(learner).named_parameters()), of)


def gradients_seen(learner: Learner) -> dict[str, Tensor]:
    """What a learner's optimisers were given in its first step."""

    def gradient(weight: Tensor) -> Tensor | None:
        for optimizer in (learner.optimizer, learner.discriminator_optimizer):
            if optimizer is not None and (state := optimizer.state.get(weight)):
                return state["exp_avg"] / (1 - optimizer.param_groups[0]["betas"][0])
        return None

    return of_learner(learner, gradient)


@torch.no_grad()
def start_again(learner: Learner, fresh: Learner) -> None:
    """Put a learner where it began, in place: what recorded it goes on with the same memory."""
    for mine, first in (
        (learner.regressor, fresh.regressor), (_discriminator(learner), _discriminator(fresh))
    ):  # fmt: skip
        begins = [*first.parameters(), *first.buffers()]
        for value, begin in zip([*mine.parameters(), *mine.buffers()], begins, strict=True):
            value.copy_(begin)
    for optimizer in (learner.optimizer, learner.discriminator_optimizer):
        assert optimizer is not None
        for state in optimizer.state.values():
            for value in state.values():
                value.zero_()
    torch.manual_seed(workloads.SEED)


def first_step(
    learner: Learner, fresh: Learner, config: Config, run: Callable[[], object]
) -> FirstStep:
    """What a step does to a learner that is put back to where it began."""
    seen: dict[str, Tensor] = {}
    for _ in range(NUM_TRIES if config.train.precision == "fp16" else 1):
        start_again(learner, fresh)
        run()
        seen = gradients_seen(learner)
        if bool(seen["trunk"].any()):
            break
    before, after = (of_learner(one, lambda weight: weight) for one in (fresh, learner))
    return seen, {name: _off_formula(name, before[name], after[name], seen[name], config)
                  for name in seen}  # fmt: skip


def _off_formula(
    part: str, before: Tensor, after: Tensor, gradient: Tensor, config: Config
) -> float:
    """Share of a part's move; a part without any gradient has not moved, whatever it says."""
    train = config.train
    game = part == "discriminator"
    rate = train.discriminator_lr if game else train.learning_rate
    decay = 0.0 if game else train.weight_decay
    due = plain.first_adam_step(before, gradient, rate, EPS, decay)
    return plain.error([after - before], [due - before])


def _discriminator(learner: Learner) -> nn.Module:
    assert learner.discriminator is not None
    return learner.discriminator


def off_plain(
    seen: dict[str, Tensor], exact: dict[str, Tensor], precision: Precision
) -> Iterator[tuple[bool, str]]:
    """Whether every part's gradient is the plain one, and what to say if not."""
    for name, gradient in exact.items():
        off = plain.error([seen[name]], [gradient])
        yield off < LIMIT[precision], f"the gradient of {name} is off by {off:.2g}"


def looked_into(
    first: FirstStep, learner: Learner, fresh: Learner, batch: Batch, config: Config,
    exact: dict[str, Tensor],
) -> Iterator[tuple[bool, str]]:  # fmt: skip
    """Whether steps are right inside, and what to say if not; changes the learner.

    `first`: the step as it is measured, and `exact`: the plain gradients. Then a plain step of the
    same learner, with an adversarial term that is heard in half precision, too.
    """
    seen, off = first
    yield from off_plain(seen, exact, config.train.precision)
    for name, moved in off.items():
        yield moved < MOVE_LIMIT, f"{name} did not move by its gradient: off by {moved:.2f}"
    loud = replace(config.weights, adversarial=LOUD * config.weights.adversarial)
    config = replace(config, weights=loud)
    learner.compare = compare
    named = ("trunk.blocks.0", "rotation_branch.encoder.layers.0")
    blocks = [runs_of(learner.regressor.get_submodule(name)) for name in named]

    def once() -> None:
        for block in blocks:
            block.num = 0
        optimise(learner, batch, config, 1.0)

    seen, _ = first_step(learner, fresh, config, once)
    _, exact = plain_gradients(fresh, batch, config)
    deaf = plain.error([seen["adaptation"]], [exact["adaptation"]])
    heard = deaf < HEARD[config.train.precision]
    yield heard, f"the gradient of a loud adversarial term is off by {deaf:.2g}"
    expected = config.train.micro_batches * (2 if config.train.checkpointing else 1)
    found = [block.num for block in blocks]
    yield found == 2 * [expected], f"blocks ran {found} times in a step, not {expected}"


def runs_of(module: nn.Module) -> Calls:
    """How often a module runs from now on, again in a backward pass included."""
    calls = Calls()

    def count(_module: nn.Module, _inputs: object) -> None:
        calls.num += 1

    module.register_forward_pre_hook(count)
    return calls
