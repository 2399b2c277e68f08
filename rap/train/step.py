"""One optimisation step over named loss terms. A term with weight zero is not computed.

`step` is what the device does, from a batch to changed weights: it waits for nothing and reads
nothing from the host, so that `execution` can record it as it is. What changes from step to step
(learning rate, weight of the average) lies on the device, too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from rap.config import Config, FeatureLoss, LossWeights, TrainConfig
from rap.model.activation import counted_at_once
from rap.model.discriminator import Discriminator, build_discriminator
from rap.model.halves import collect_gradients, half_weights
from rap.model.precision import AUTOCAST_DTYPES, precision_scope, tf32_scope
from rap.model.regressor import Regressor
from rap.train.batches import Batch
from rap.train.distributed import Ranks
from rap.train.losses import PoseLoss, discriminator_loss, feature_loss, fooling_loss
from rap.train.schedule import average_weight, update_average

# Learnt loss weights move on a scale of their own, not on that of the network's weights.
POSE_WEIGHTS_LR = 1e-3

INITIAL_SCALE = 2.0**6
"""Of fp16's losses. With random weights, gradients of the trunk overflow from 2**9 on (the tests'
network) or at 2**10 but not at 2**8 (B0 at 240x320); the tests' loses hardly any at 2**0. With
torch's own 2**16 the first eight steps did nothing but halve it."""

Terms = dict[str, Tensor]
"""Scalars by name."""
Comparison = Callable[..., tuple[Terms, Tensor | None]]
"""`compare`, or what a compiler made of it."""


@dataclass
class Learner:
    """Everything that a step changes, and the callable that may be compiled."""

    regressor: Regressor
    pose_loss: PoseLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    lr_factor: Float[Tensor, ""]
    """Of this step, on every group's peak learning rate."""
    average_weight: Float[Tensor, ""]
    """How far this step moves the average."""
    compare: Comparison
    discriminator: Discriminator | None = None
    discriminator_optimizer: torch.optim.Optimizer | None = None
    average: Regressor | None = None
    num_steps: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    """Which processes average their gradients with this one's."""

    def join(self, ranks: Ranks) -> None:
        """Start from the leading rank's weights, and average gradients from now on."""
        self.ranks = ranks
        networks = (self.regressor, self.pose_loss, self.average, self.discriminator)
        for network in networks:
            if network is not None:
                ranks.same([*network.parameters(), *network.buffers()])

    @property
    def scored(self) -> Regressor:
        """The network whose results count: the moving average where there is one."""
        return self.regressor if self.average is None else self.average


def build_learner(
    regressor: Regressor, average: Regressor | None, config: Config, device: torch.device
) -> Learner:
    """A learner on the device; `average` starts as a copy of the regressor, or is None."""
    train = config.train
    if train.channels_last:
        for network in (regressor, average):
            if network is not None:
                nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
    regressor.recompute_activations(train.checkpointing)
    pose_loss = PoseLoss(
        train.translation_log_weight, train.rotation_log_weight, train.learn_pose_weights
    ).to(device)
    learner = Learner(
        regressor=regressor,
        pose_loss=pose_loss,
        optimizer=_optimizer(regressor, pose_loss, train, device),
        scaler=_scaler(train, device),
        lr_factor=torch.ones((), device=device),
        average_weight=torch.zeros((), device=device),
        compare=compare,
        average=average,
    )
    if config.weights.adversarial:
        learner.discriminator = build_discriminator(config.model.feature_dim, train.seed).to(device)
        learner.discriminator_optimizer = torch.optim.Adam(
            learner.discriminator.parameters(), train.discriminator_lr, (0.5, 0.999),
            fused=True, capturable=device.type == "cuda",
        )  # fmt: skip
    return learner


def _scaler(train: TrainConfig, device: torch.device) -> torch.amp.GradScaler:
    """Of fp16's losses; disabled in other precisions."""
    scaler = torch.amp.GradScaler(device.type, INITIAL_SCALE, enabled=train.precision == "fp16")
    # Makes the scale on the device: the first step would, and a recorded one at each replay.
    scaler.scale(torch.ones((), device=device))
    return scaler


def _optimizer(
    regressor: Regressor, pose_loss: PoseLoss, train: TrainConfig, device: torch.device
) -> torch.optim.AdamW:
    """Fused AdamW whose learning rates lie on the device."""
    trained = [p for p in regressor.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trained, "peak_lr": train.learning_rate}]
    if train.learn_pose_weights:
        groups.append({"params": list(pose_loss.parameters()), "peak_lr": POSE_WEIGHTS_LR})
    for group in groups:
        of_network = group["params"] is trained
        group["weight_decay"] = train.weight_decay if of_network else 0.0
        group["lr"] = torch.tensor(group["peak_lr"], device=device)
    return torch.optim.AdamW(groups, fused=True, capturable=device.type == "cuda")


def optimise(learner: Learner, batch: Batch, config: Config, lr_factor: float) -> Terms:
    """One step; returns the detached terms on the device, so that the host need not wait."""
    set_controls(learner, config, lr_factor)
    return step(learner, batch, config)


def set_controls(learner: Learner, config: Config, lr_factor: float) -> None:
    """Count a step, and tell the device what differs from the one before; nothing is copied."""
    learner.lr_factor.fill_(lr_factor)
    learner.average_weight.fill_(average_weight(config.train.ema_decay, learner.num_steps))
    learner.num_steps += 1


def step(learner: Learner, batch: Batch, config: Config) -> Terms:
    """Forward, losses, backward, clipping, optimisers and average, on the device alone."""
    train = config.train
    if not learner.regressor.training:
        learner.regressor.train()
    if train.channels_last:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        batch = replace(batch, images=images)
    with tf32_scope(train.precision):
        learner.optimizer.zero_grad(set_to_none=True)
        terms = _accumulate(learner, batch, config)
        learner.ranks.average_gradients(learner.optimizer, *_parts_used(learner, batch, config))
        for group in learner.optimizer.param_groups:
            torch.mul(learner.lr_factor, group["peak_lr"], out=group["lr"])
        if train.grad_clip:
            learner.scaler.unscale_(learner.optimizer)
            nn.utils.clip_grad_norm_(learner.regressor.parameters(), train.grad_clip)
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
    if learner.average is not None:
        update_average(learner.average, learner.regressor, learner.average_weight)
    return terms


def _accumulate(learner: Learner, batch: Batch, config: Config) -> Terms:
    """Gradients of a batch, one micro-batch after the other; returns the terms' means."""
    num, sums = config.train.micro_batches, {}
    # Once: nothing changes the weights before the optimiser does.
    halves = _halves(learner, config)
    for index, part in enumerate(micro_batches(batch, num)):
        with precision_scope(config.train.precision, batch.images.device):
            terms = loss_terms(learner, part, config, last=index == num - 1, halves=halves)
        weighted = [_times(getattr(config.weights, name), term) for name, term in terms.items()]
        total = torch.stack(weighted).sum()
        learner.scaler.scale(total if num == 1 else total / num).backward()
        collect_gradients(learner.regressor, halves)
        for name, value in terms.items():
            mean = value.detach() if num == 1 else value.detach() / num
            sums[name] = sums[name] + mean if name in sums else mean
    return sums


def _times(factor: float, term: Tensor) -> Tensor:
    """A product; one with 1 would be two kernels for nothing."""
    return term if factor == 1 else factor * term


def _parts_used(learner: Learner, batch: Batch, config: Config) -> list[nn.Module]:
    """Parts of the network that a step runs, whose live BatchNorms gather statistics in it.

    Those of others are not averaged over ranks: the mean of equal numbers may round to another.
    """
    unused = {
        "trunk": batch.are_features,
        "adaptation": not needs_features(config.weights),
    }
    parts = learner.regressor.named_children()
    return [part for name, part in parts if not unused.get(name, False)]


def micro_batches(batch: Batch, num: int) -> Iterator[Batch]:
    """A batch in equal parts that each hold some photographs, with their renderings and views."""
    if num == 1:
        yield batch
        return
    wrong = {name: size for name, size in batch.sizes.items() if size % num}
    if wrong:
        raise ValueError(f"{wrong} images cannot be split into {num} equal micro-batches")
    sizes = {name: size // num for name, size in batch.sizes.items()}
    images = [part.chunk(num) for part in batch.images.split(list(batch.sizes.values()))]
    poses = [part.chunk(num) for part in batch.world_from_camera.split(list(batch.sizes.values()))]
    for image, pose in zip(zip(*images, strict=True), zip(*poses, strict=True), strict=True):
        yield Batch(torch.cat(image), torch.cat(pose), sizes, batch.are_features)


def loss_terms(
    learner: Learner,
    batch: Batch,
    config: Config,
    *,
    last: bool = True,
    halves: dict[str, Tensor] | None = None,
) -> Terms:
    """The named terms of a batch; `last`: the discriminator takes its step, too.

    `halves`: weights in half precision that stand for the regressor's own.

    One forward pass over all images equals one per kind of image where BatchNorm is frozen. Live
    BatchNorm then takes its statistics over photographs, renderings and views together.
    """
    with counted_at_once(_parts_used(learner, batch, config)):
        terms, features = learner.compare(
            learner.regressor, learner.pose_loss, batch.images, batch.world_from_camera,
            batch.sizes, config.weights, config.train.feature_loss, halves or {},
            batch.are_features,
        )  # fmt: skip
    if config.weights.adversarial:
        assert features is not None
        real, rendered = features.chunk(2, dim=1)
        train_discriminator(
            learner, real, rendered, share=1 / config.train.micro_batches, last=last
        )
        terms["adversarial"] = _fooling(learner, rendered)
    return terms


def _halves(learner: Learner, config: Config) -> dict[str, Tensor]:
    """Weights for autocast. Not with checkpointing, whose second pass sees the regressor's own."""
    dtype = AUTOCAST_DTYPES.get(config.train.precision)
    if dtype is None or config.train.checkpointing:
        return {}
    return half_weights(learner.regressor, dtype)


def compare(
    regressor: Regressor,
    pose_loss: PoseLoss,
    images: Float[Tensor, "b c h w"],
    world_from_camera: Float[Tensor, "b 4 4"],
    sizes: dict[str, int],
    weights: LossWeights,
    kind: FeatureLoss,
    halves: dict[str, Tensor],
    are_features: bool,
) -> tuple[Terms, Float[Tensor, "l f d y x"] | None]:
    """What one forward pass gives: all terms but the adversarial one, which needs its features.

    `halves`: weights in half precision by name, which stand for the regressor's own.
    `are_features`: the images are a frozen trunk's features of them.
    """
    named = {
        "with_features": needs_features(weights), "num_featured": 2 * sizes.get("pose", 0),
        "are_features": are_features,
    }  # fmt: skip
    prediction = functional_call(regressor, halves, (images,), named)
    # Autocast would take the losses' matrix products in half precision.
    with torch.autocast(images.device.type, enabled=False):
        losses = pose_loss.of_parts(
            prediction.translation, prediction.rotation, world_from_camera, list(sizes.values())
        )
        terms = {
            name: loss for name, loss in zip(sizes, losses, strict=True) if getattr(weights, name)
        }
        if weights.feature:
            assert prediction.features is not None
            real, rendered = prediction.features.chunk(2, dim=1)
            terms["feature"] = feature_loss(kind, rendered, real)
    return terms, prediction.features


def train_discriminator(
    learner: Learner, real: Tensor, rendered: Tensor, *, share: float = 1.0, last: bool = True
) -> Tensor:
    """The discriminator's gradient on detached features, times a share; returns its loss.

    Gradients add up until `last`, when the discriminator takes one step.
    """
    discriminator, optimizer = learner.discriminator, learner.discriminator_optimizer
    assert discriminator is not None
    assert optimizer is not None
    discriminator.requires_grad_(True)
    # One call on both domains: half the launches, the same scores (GroupNorm is per image).
    # Level by level: flattened halves of the batch would be copied before they are put together.
    images = torch.cat([*real, *rendered]).detach().float()
    # Always fp32: its gradients are below what fp16 can hold, and it is small.
    with torch.autocast(images.device.type, enabled=False):
        loss = discriminator_loss(*discriminator(images).chunk(2))
    _times(share, loss).backward()
    if last:
        learner.ranks.average_gradients(optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _fooling(learner: Learner, rendered: Tensor) -> Tensor:
    assert learner.discriminator is not None
    learner.discriminator.requires_grad_(False)
    with torch.autocast(rendered.device.type, enabled=False):
        return fooling_loss(learner.discriminator(rendered.flatten(0, 1).float()))


def needs_photographs(weights: LossWeights) -> bool:
    """Whether a term looks at the photographs themselves, not only at what is drawn of them."""
    return bool(weights.pose) or needs_features(weights)


def needs_features(weights: LossWeights) -> bool:
    """Whether a term compares features of photographs and their renderings."""
    return bool(weights.feature or weights.adversarial)
