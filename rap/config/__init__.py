"""The one tree of settings: frozen, typed, and the only place where a default is written.

The docstring under a field is its help text on the command line. Presets are TOML files in
`rap/presets`; loading is strict: an unknown key or a value of the wrong type is an error that names
the file, the key and what is accepted.
"""

from rap.config.checks import ConfigError
from rap.config.files import from_dict, from_toml, load, preset, preset_names, to_toml
from rap.config.network import (
    BatchNorm,
    Execution,
    FeatureLoss,
    ImageConfig,
    LossWeights,
    ModelConfig,
    Precision,
    Schedule,
    TrainConfig,
)
from rap.config.splats import FitConfig, ViewsConfig
from rap.config.tree import Config

__all__ = [
    "BatchNorm", "Config", "ConfigError", "Execution", "FeatureLoss", "FitConfig", "ImageConfig",
    "LossWeights", "ModelConfig", "Precision", "Schedule", "TrainConfig", "ViewsConfig",
    "from_dict", "from_toml", "load", "preset", "preset_names", "to_toml",
]  # fmt: skip
