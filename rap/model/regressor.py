"""The pose regressor: one photograph in, the pose of its camera out.

Two branches read two levels of one trunk: translation the coarser, rotation the finer. The trunk
and the encoders run in the caller's precision; the pose heads and the rotation always run in
fp32, because half precision has steps of centimetres at tens of metres.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rap import geometry
from rap.config import ConfigError, ModelConfig
from rap.model.backbone import EfficientNetTrunk, build_trunk
from rap.model.transformer import Encoder, PositionTable

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ADAPTATION_HIDDEN = 64
# EfficientNet's 0.01 averages over hundreds of steps: right for ImageNet, but a short training
# would be scored with statistics that it left behind long ago.
LIVE_MOMENTUM = 0.1


@dataclass(frozen=True)
class Prediction:
    """Camera centres in world coordinates (metres), world_from_camera rotations, and features."""

    translation: Float[Tensor, "b 3"]
    rotation: Float[Tensor, "b 3 3"]
    features: Float[Tensor, "l f c h w"] | None = None
    """Of the first images: translation level, then rotation level, both at the latter's size."""

    @property
    def world_from_camera(self) -> Float[Tensor, "b 4 4"]:
        """The poses as 4×4 matrices."""
        return geometry.rigid(self.rotation, self.translation)


class Branch(nn.Module):
    """Feature map to raw pose component: tokens, encoder, a two-layer head."""

    __call__: Callable[[Tensor, PositionTable], Tensor]

    def __init__(
        self, config: ModelConfig, channels: int, initial_output: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.pose_token = nn.Parameter(torch.zeros(config.dim))
        self.project = nn.Linear(channels, config.dim)
        self.encoder = Encoder(
            config.dim, config.heads, config.layers, config.feedforward, config.dropout
        )
        self.head_hidden = nn.Linear(config.dim, config.head_hidden)
        self.head_out = nn.Linear(config.head_hidden, len(initial_output))
        nn.init.xavier_uniform_(self.head_hidden.weight)
        # Small, so that a fresh network predicts nearly the same, sensible pose for every image.
        nn.init.normal_(self.head_out.weight, std=0.01)
        with torch.no_grad():
            self.head_out.bias.copy_(torch.tensor(initial_output))

    def forward(
        self, features: Float[Tensor, "b c h w"], positions: PositionTable
    ) -> Float[Tensor, "b o"]:
        """The head's raw output, in the parameters' precision even under autocast."""
        tokens = self.project(features.flatten(2).mT)
        # Not cast down under autocast: the sum that runs through the layers stays fp32.
        pose_token = self.pose_token.expand(tokens.shape[0], 1, -1)
        position = positions(features.shape[2], features.shape[3])
        token = self.encoder(torch.cat([pose_token, tokens], dim=1), position)
        with torch.autocast(features.device.type, enabled=False):
            hidden = F.gelu(self.head_hidden(token.to(self.head_hidden.weight.dtype)))
            return self.head_out(hidden)


class Regressor(nn.Module):
    """EfficientNet trunk, two transformer encoders, pose heads on normalised translations."""

    __call__: Callable[..., Prediction]
    image_mean: Tensor
    image_std: Tensor
    translation_mean: Tensor
    translation_scale: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        levels = (config.translation_level, config.rotation_level)
        self.trunk = build_trunk(config.backbone, config.width, config.drop_connect, levels)
        self.positions = PositionTable(config.dim)
        self.translation_branch = Branch(config, self.trunk.channels[0], (0.0, 0.0, 0.0))
        self.rotation_branch = Branch(
            config, self.trunk.channels[1], (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        )
        self.adaptation = nn.ModuleList(
            _adaptation(channels, config.feature_dim) for channels in self.trunk.channels
        )
        for name, values in (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.register_buffer("translation_mean", torch.zeros(3))
        self.register_buffer("translation_scale", torch.tensor(1.0))
        for norm in self._batch_norms():
            if config.batch_norm == "live":
                norm.momentum = LIVE_MOMENTUM
            else:
                norm.requires_grad_(False)

    def features(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """The trunk's feature maps that the two branches read."""
        return self.trunk((images - self.image_mean) / self.image_std)

    def forward(
        self,
        images: Float[Tensor, "b c h w"],
        with_features: bool = False,
        num_featured: int | None = None,
        are_features: bool = False,
    ) -> Prediction:
        """Poses of images in [0, 1]; features for the alignment losses only when asked for.

        These are of the first `num_featured` images, or of all. With `are_features`, in the place
        of images come their `features` of the one level that both branches then must read.
        """
        maps = [images, images] if are_features else self.features(images)
        translation = self.translation_branch(maps[0], self.positions)
        rotation = self.rotation_branch(maps[1], self.positions)
        features = self._adapt([level[:num_featured] for level in maps]) if with_features else None
        with torch.autocast(images.device.type, enabled=False):
            return Prediction(
                translation * self.translation_scale + self.translation_mean,
                geometry.rotation_from_6d(rotation),
                features,
            )

    def _adapt(self, maps: list[Tensor]) -> Float[Tensor, "2 b c h w"]:
        size = maps[1].shape[-2:]
        adapted = []
        for layer, features in zip(self.adaptation, maps, strict=True):
            y = layer(features).to(self.image_mean.dtype)
            if y.shape[-2:] != size:
                y = F.interpolate(y, size=size, mode="bilinear", align_corners=False)
            adapted.append(y)
        return torch.stack(adapted)

    def train(self, mode: bool = True) -> "Regressor":
        """Training mode; BatchNorm stays in evaluation mode unless the config says `live`."""
        super().train(mode)
        if self.config.batch_norm != "live":
            for norm in self._batch_norms():
                norm.eval()
        return self

    def recompute_activations(self, enabled: bool) -> None:
        """Keep only the inputs of trunk blocks and encoder layers in training (see `recompute`).

        The trunk of a timm model keeps all it needs: timm has its own ways.
        """
        for module in self.modules():
            if isinstance(module, EfficientNetTrunk | Encoder):
                module.recompute = enabled

    @property
    def needs_calibration(self) -> bool:
        """True for `calibrated` BatchNorm whose statistics nobody has set: don't train on it."""
        return self.config.batch_norm == "calibrated" and any(
            norm.num_batches_tracked is not None and int(norm.num_batches_tracked) == 0
            for norm in self._batch_norms()
        )

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Float[Tensor, "b 3 h w"]]) -> None:
        """Set BatchNorm's statistics to their averages over batches of training images, once.

        Give shuffled batches: each layer sees its batch normalised by the batch's own statistics.
        Dropout is off meanwhile. Raises ConfigError unless the config says `calibrated`, and
        ValueError when there is no batch.
        """
        if self.config.batch_norm != "calibrated":
            raise ConfigError(
                f"model.batch_norm = {self.config.batch_norm!r} takes no calibration; "
                "it must be 'calibrated'"
            )
        training = self.training
        self.eval()
        momenta = {norm: norm.momentum for norm in self._batch_norms()}
        for norm in momenta:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for images in batches:
            self(images, with_features=True)
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        self.train(training)
        if self.needs_calibration:
            raise ValueError("calibration needs at least one batch of training images")

    def set_translation_stats(self, centres: Float[Tensor, "n 3"]) -> None:
        """Normalise by the mean and the RMS spread per axis of the training cameras' centres."""
        if centres.shape[0] == 0 or not bool(centres.isfinite().all()):
            raise ValueError(f"camera centres must be finite and at least one, not {centres}")
        mean = centres.double().mean(0)
        spread = math.sqrt(float((centres.double() - mean).square().mean()))
        self.translation_mean.copy_(mean)
        # One camera, or all at one place: any unit does.
        self.translation_scale.fill_(spread if spread > 0 else 1.0)

    def _batch_norms(self) -> Iterator[nn.BatchNorm2d]:
        return (module for module in self.modules() if isinstance(module, nn.BatchNorm2d))


def build_regressor(config: ModelConfig, seed: int) -> Regressor:
    """A freshly initialised regressor on the CPU; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Regressor(config)


def _adaptation(channels: int, feature_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, ADAPTATION_HIDDEN, 1),
        nn.ReLU(),
        nn.Conv2d(ADAPTATION_HIDDEN, feature_dim, 5, padding=2),
        nn.BatchNorm2d(feature_dim),
    )


def _check(config: ModelConfig) -> None:
    if config.dim % 2 or config.dim % config.heads:
        raise ConfigError(
            f"model.dim = {config.dim} must be even and a multiple of model.heads = {config.heads}"
        )
    if config.layers < 1:
        raise ConfigError(f"model.layers = {config.layers} must be at least 1")
