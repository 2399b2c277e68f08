"""One optimisation step over named loss terms. A term with weight zero is not computed."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rap.config import Config, LossWeights
from rap.model.discriminator import Discriminator, build_discriminator
from rap.model.precision import precision_scope, tf32_scope
from rap.model.regressor import Prediction, Regressor
from rap.train.batches import Batch
from rap.train.losses import PoseLoss, discriminator_loss, feature_loss, fooling_loss
from rap.train.schedule import update_average

# Learnt loss weights move on a scale of their own, not on that of the network's weights.
POSE_WEIGHTS_LR = 1e-3


@dataclass
class Learner:
    """Everything that a step changes, and the callables that it runs."""

    regressor: Regressor
    pose_loss: PoseLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    forward: Callable[..., Prediction]
    discriminator: Discriminator | None = None
    discriminator_optimizer: torch.optim.Optimizer | None = None
    average: Regressor | None = None
    num_steps: int = 0

    @property
    def scored(self) -> Regressor:
        """The network whose results count: the moving average where there is one."""
        return self.regressor if self.average is None else self.average


def build_learner(
    regressor: Regressor, average: Regressor | None, config: Config, device: torch.device
) -> Learner:
    """A learner on the device; `average` starts as a copy of the regressor, or is None."""
    train = config.train
    fused = device.type == "cuda"
    if train.channels_last:
        for network in (regressor, average):
            if network is not None:
                nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
    pose_loss = PoseLoss(
        train.translation_log_weight, train.rotation_log_weight, train.learn_pose_weights
    ).to(device)
    trained = [p for p in regressor.parameters() if p.requires_grad]
    groups = [{"params": trained, "lr": train.learning_rate, "weight_decay": train.weight_decay}]
    if train.learn_pose_weights:
        groups.append(
            {"params": list(pose_loss.parameters()), "lr": POSE_WEIGHTS_LR, "weight_decay": 0.0}
        )
    for group in groups:
        group["peak_lr"] = group["lr"]
    learner = Learner(
        regressor=regressor,
        pose_loss=pose_loss,
        optimizer=torch.optim.AdamW(groups, fused=fused),
        scaler=torch.amp.GradScaler(device.type, enabled=train.precision == "fp16"),
        forward=torch.compile(regressor) if train.compile else regressor,
        average=average,
    )
    if config.weights.adversarial:
        learner.discriminator = build_discriminator(config.model.feature_dim, train.seed).to(device)
        learner.discriminator_optimizer = torch.optim.Adam(
            learner.discriminator.parameters(), train.discriminator_lr, (0.5, 0.999), fused=fused
        )
    return learner


def optimise(learner: Learner, batch: Batch, config: Config, lr_factor: float) -> dict[str, Tensor]:
    """One step; returns the detached terms on the device, so that the host need not wait."""
    with tf32_scope(config.train.precision):
        return _optimise(learner, batch, config, lr_factor)


def _optimise(
    learner: Learner, batch: Batch, config: Config, lr_factor: float
) -> dict[str, Tensor]:
    learner.regressor.train()
    if config.train.channels_last:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        batch = replace(batch, images=images)
    with precision_scope(config.train.precision, batch.images.device):
        terms = loss_terms(learner, batch, config)
    weights = config.weights
    total = torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
    for group in learner.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * lr_factor
    learner.optimizer.zero_grad(set_to_none=True)
    learner.scaler.scale(total).backward()
    if config.train.grad_clip:
        learner.scaler.unscale_(learner.optimizer)
        nn.utils.clip_grad_norm_(learner.regressor.parameters(), config.train.grad_clip)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    if learner.average is not None:
        update_average(
            learner.average, learner.regressor, config.train.ema_decay, learner.num_steps
        )
    learner.num_steps += 1
    return {name: value.detach() for name, value in terms.items()}


def loss_terms(learner: Learner, batch: Batch, config: Config) -> dict[str, Tensor]:
    """The named terms of a batch from one forward pass over all its images.

    One pass equals one per kind of image where BatchNorm is frozen. Live BatchNorm then takes its
    statistics over photographs, renderings and views together.
    """
    weights = config.weights
    num_real = batch.sizes["pose"]
    prediction = learner.forward(
        batch.images, with_features=needs_features(weights), num_featured=2 * num_real
    )
    terms, start = {}, 0
    for name, size in batch.sizes.items():
        if getattr(weights, name):
            part = slice(start, start + size)
            terms[name] = learner.pose_loss(
                prediction.translation[part], prediction.rotation[part],
                batch.world_from_camera[part],
            )  # fmt: skip
        start += size
    if prediction.features is not None:
        real, rendered = prediction.features.split(num_real, dim=1)
        if weights.feature:
            terms["feature"] = feature_loss(config.train.feature_loss, rendered, real)
        if weights.adversarial:
            train_discriminator(learner, real, rendered)
            terms["adversarial"] = _fooling(learner, rendered)
    return terms


def train_discriminator(learner: Learner, real: Tensor, rendered: Tensor) -> Tensor:
    """One step of the discriminator on detached features; returns its loss."""
    discriminator, optimizer = learner.discriminator, learner.discriminator_optimizer
    assert discriminator is not None
    assert optimizer is not None
    discriminator.requires_grad_(True)
    # One call on both domains: half the launches, the same scores (GroupNorm is per image).
    images = torch.cat([real.flatten(0, 1), rendered.flatten(0, 1)]).detach().float()
    # Always fp32: its gradients are below what fp16 can hold, and it is small.
    with torch.autocast(images.device.type, enabled=False):
        loss = discriminator_loss(*discriminator(images).chunk(2))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def _fooling(learner: Learner, rendered: Tensor) -> Tensor:
    assert learner.discriminator is not None
    learner.discriminator.requires_grad_(False)
    with torch.autocast(rendered.device.type, enabled=False):
        return fooling_loss(learner.discriminator(rendered.flatten(0, 1).float()))


def needs_features(weights: LossWeights) -> bool:
    """Whether a term compares features of photographs and their renderings."""
    return bool(weights.feature or weights.adversarial)
