"""The whole tree, and the checks across its sections."""

import dataclasses
from dataclasses import dataclass, field

from rap.config.checks import ConfigError
from rap.config.network import ImageConfig, LossWeights, ModelConfig, TrainConfig
from rap.config.splats import FitConfig, ViewsConfig


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on."""

    image: ImageConfig = field(default_factory=ImageConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not any(dataclasses.astuple(self.weights)):
            names = ", ".join(f.name for f in dataclasses.fields(self.weights))
            raise ConfigError(f"weights.* are all 0; at least one must be above: {names}")
        batch_size, num_parts = self.train.batch_size, self.train.micro_batches
        if batch_size % num_parts:
            raise ConfigError(
                f"train.micro_batches = {num_parts} must divide train.batch_size = {batch_size}"
            )
        compared, kind = batch_size // num_parts, self.train.feature_loss
        if self.weights.feature and kind == "vicreg" and compared < 2:
            raise ConfigError(
                f"train.batch_size = {batch_size} with weights.feature = {self.weights.feature}: "
                "vicreg's variance needs at least 2 photographs in each of the "
                f"train.micro_batches = {num_parts}; or choose another train.feature_loss"
            )
