"""The one tree of settings: frozen, typed, and the only place where a default is written.

The docstring under a field is its help text on the command line. Presets are TOML files beside this
module; loading is strict: an unknown key or a value of the wrong type is an error that names the
file, the key and what is accepted.
"""

import dataclasses
import json
import sys
import tomllib
import types
import typing
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
BatchNorm = Literal["live", "frozen", "calibrated"]
FeatureLoss = Literal["vicreg", "triplet", "ntxent", "mse"]
Schedule = Literal["constant", "one_cycle", "plateau"]


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the key, the value and what is accepted."""


@dataclass(frozen=True)
class ImageConfig:
    """Photographs on their way into the network."""

    height: int = 240
    """Network input height in pixels; the width follows the photographs' aspect ratio."""
    num_workers: int = 4
    """Threads that decode photographs, or gather batches when images stay in host memory."""
    pin_memory: bool = True
    """Page-lock host memory, so that copies to the GPU overlap with work."""
    device_budget_gib: float = 16.0
    """Images above this size stay in host memory and stream to the device batch by batch."""
    cache_dir: Path | None = None
    """Folder for decoded images, keyed by content; none: decode on every run."""

    def __post_init__(self) -> None:
        _at_least(self, "image", 16, "height")
        _at_least(self, "image", 0, "num_workers", "device_budget_gib")


@dataclass(frozen=True)
class ModelConfig:
    """The pose regressor."""

    backbone: str = "b0"
    """`b0` to `b3` (EfficientNet), or `timm:NAME` for any timm model when timm is installed."""
    width: float = 1.0
    """Multiplies the trunk's channel counts; published weights need 1."""
    dim: int = 256
    """Token width of the transformers."""
    heads: int = 4
    """Attention heads."""
    layers: int = 6
    """Encoder layers per branch."""
    feedforward: int = 256
    """Hidden width of each encoder layer's MLP."""
    head_hidden: int = 1024
    """Hidden width of the two pose heads."""
    dropout: float = 0.1
    """Dropout in the encoder layers."""
    drop_connect: float = 0.2
    """Stochastic depth of the trunk's last block; earlier blocks get a linear share."""
    translation_level: int = 4
    """Trunk level (stride 2^level) that the translation branch reads."""
    rotation_level: int = 3
    """Trunk level that the rotation branch reads; 3 gives 4x the tokens of 4."""
    feature_dim: int = 128
    """Channels of the adaptation layers, which only the feature and adversarial terms use."""
    batch_norm: BatchNorm = "live"
    """`live`, `frozen` as published (needs pretrained weights), or `calibrated` once and frozen."""

    def __post_init__(self) -> None:
        _at_least(self, "model", 1, "dim", "heads", "layers", "feedforward", "head_hidden")
        _at_least(self, "model", 1, "feature_dim")
        _in_range(self, "model", 0, 1, "dropout", "drop_connect", below=True)


@dataclass(frozen=True)
class FitConfig:
    """Photographs and poses to Gaussians (3D Gaussian splatting, MCMC densification)."""

    iterations: int = 5000
    """Optimisation steps."""
    images_per_step: int = 1
    """Photographs rendered per step."""
    height: int | None = None
    """Train at this image height; none: the photographs' own."""
    max_gaussians: int = 300_000
    """MCMC never grows beyond this."""
    initial_points: int = 100_000
    """Use at most this many initial points; surplus is drawn at random."""
    sh_degree: int = 2
    """Highest spherical-harmonics degree of the colours."""
    ssim_weight: float = 0.2
    """w in the loss (1 - w)·L1 + w·(1 - SSIM)."""
    antialiased: bool = True
    """Compensate opacity for the screen-space low-pass filter (Mip-Splatting)."""
    means_lr: float = 1.6e-4
    """Learning rate of the means per unit of scene extent; decays to 1 % of it."""
    scales_lr: float = 5e-3
    """Learning rate of the log scales."""
    quats_lr: float = 1e-3
    """Learning rate of the quaternions."""
    opacities_lr: float = 5e-2
    """Learning rate of the opacity logits."""
    sh_lr: float = 2.5e-3
    """Learning rate of the base colour; higher degrees get a twentieth."""
    opacity_reg: float = 0.01
    """Weight of the mean opacity (MCMC needs it to free Gaussians)."""
    scale_reg: float = 0.01
    """Weight of the mean scale."""
    noise_lr: float = 5e5
    """Strength of MCMC's exploration noise."""
    refine_every: int = 100
    """Steps between relocations."""
    refine_start: float = 0.1
    """Share of the iterations before the first relocation."""
    refine_stop: float = 0.85
    """Share of the iterations after the last relocation."""
    seed: int = 7
    """Seed of every random choice of the fit."""

    def __post_init__(self) -> None:
        _at_least(self, "fit", 1, "iterations", "images_per_step", "max_gaussians")
        _at_least(self, "fit", 1, "initial_points", "refine_every")
        _at_least(self, "fit", 16, "height")
        _at_least(self, "fit", 0, "seed")
        _in_range(self, "fit", 0, 3, "sh_degree")
        _in_range(self, "fit", 0, 1, "ssim_weight", "refine_start", "refine_stop")


@dataclass(frozen=True)
class ViewsConfig:
    """Random view synthesis (RVS): new poses near the training poses, rendered from the splat."""

    translation_m: float = 0.2
    """Largest shift of the camera, uniform in a ball."""
    rotation_deg: float = 10.0
    """Largest turn of the camera about itself, a geodesic angle."""
    per_image: int = 1
    """Views per training photograph; 0 trains without synthesis, with weights.view = 0 as well."""
    refresh_epochs: int = 1
    """Epochs between redraws of all views."""
    bounds_margin_m: float = 0.2
    """Views must lie in the box of the training cameras, widened by this."""
    min_coverage: float = 0.5
    """A view with a lower mean alpha is rejected."""
    max_attempts: int = 10
    """Redraws of a rejected view; then the best attempt is kept and counted."""
    render_batch: int = 32
    """Views drawn per call."""

    def __post_init__(self) -> None:
        _at_least(self, "views", 0, "translation_m", "rotation_deg", "per_image")
        _at_least(self, "views", 0, "bounds_margin_m")
        _in_range(self, "views", 0, 1, "min_coverage")
        _at_least(self, "views", 1, "refresh_epochs", "max_attempts", "render_batch")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the named terms; zero removes a term and its cost."""

    pose: float = 1.0
    """Pose of the photographs."""
    rendered: float = 0.0
    """Pose of the photographs re-rendered at their own pose."""
    view: float = 1.0
    """Pose of the synthetic views."""
    feature: float = 0.0
    """Alignment of features of photographs and their renderings."""
    adversarial: float = 0.0
    """Renderings should look real to the discriminator (LSGAN)."""

    def __post_init__(self) -> None:
        _at_least(self, "weights", 0, "pose", "rendered", "view", "feature", "adversarial")


@dataclass(frozen=True)
class TrainConfig:
    """Training of the regressor."""

    epochs: int = 100
    """Passes over the training photographs."""
    batch_size: int = 8
    """Photographs per step; the views come on top."""
    learning_rate: float = 1e-4
    """Peak learning rate of Adam."""
    schedule: Schedule = "one_cycle"
    """`one_cycle`, `constant`, or `plateau` (factor 0.95 on the validation score, as published)."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    grad_clip: float = 0.0
    """Clip the gradient's norm; 0: off."""
    ema_decay: float = 0.0
    """Score and keep an exponential moving average of the weights; 0: the weights themselves."""
    discriminator_lr: float = 1e-4
    """Learning rate of the discriminator (Adam, betas 0.5 and 0.999)."""
    feature_loss: FeatureLoss = "vicreg"
    """Which feature alignment the term `feature` uses."""
    learn_pose_weights: bool = False
    """Learn the balance of translation and rotation (homoscedastic; own parameter group)."""
    translation_log_weight: float = 3.0
    """Natural log of the weight of the translation error in metres (published: 3)."""
    rotation_log_weight: float = 6.5
    """Natural log of the weight of the rotation-matrix error (published: 6.5)."""
    augment: float = 0.0
    """Strength of the photometric augmentation of all images; 0: off, 1: as strong as is sane."""
    precision: Precision = "fp32"
    """Arithmetic of the trunk and the transformers; heads and losses are always fp32."""
    compile: bool = False
    """torch.compile the network."""
    channels_last: bool = False
    """Keep images and convolution weights channels-last in memory; same values, faster on a GPU."""
    validation_fraction: float = 0.1
    """Share of the training photographs held out, in contiguous blocks, to choose the weights."""
    validate_every: int = 1
    """Epochs between validations."""
    patience: int = 0
    """Stop after this many validations without a better score; 0: never."""
    seed: int = 7
    """Seed of every random choice of the training."""

    def __post_init__(self) -> None:
        _at_least(self, "train", 1, "epochs", "batch_size", "validate_every")
        _at_least(self, "train", 0, "learning_rate", "discriminator_lr", "weight_decay")
        _at_least(self, "train", 0, "grad_clip", "augment", "patience", "seed")
        _in_range(self, "train", 0, 1, "ema_decay", "validation_fraction", below=True)


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
        batch_size, kind = self.train.batch_size, self.train.feature_loss
        if self.weights.feature and kind == "vicreg" and batch_size < 2:
            raise ConfigError(
                f"train.batch_size = {batch_size} with weights.feature = {self.weights.feature}: "
                "vicreg's variance needs at least 2; or choose another train.feature_loss"
            )


def preset_names() -> list[str]:
    """Names that `preset` accepts."""
    folder = resources.files("rap") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir()
                  if entry.name.endswith(".toml"))  # fmt: skip


def preset(name: str) -> Config:
    """A named preset; raises ConfigError for an unknown name."""
    if name not in preset_names():
        raise ConfigError(f"preset {name!r} does not exist; there are {', '.join(preset_names())}")
    text = (resources.files("rap") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return from_toml(text, f"preset {name}")


def load(path: Path) -> Config:
    """A configuration file; raises ConfigError naming the file and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from error
    return from_toml(text, str(path))


def from_toml(text: str, source: str) -> Config:
    """Parse TOML strictly; `source` names the text in errors."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from error
    return from_dict(tree, source)


def from_dict(tree: dict[str, Any], source: str) -> Config:
    """Build a Config from nested dictionaries; every key must exist and every value must fit."""
    return _build(Config, tree, source, "")


def to_toml(config: Config) -> str:
    """TOML text that `from_toml` reads back to an equal Config; None is left out."""
    lines = []
    for section in dataclasses.fields(config):
        lines.append(f"[{section.name}]")
        values = dataclasses.asdict(getattr(config, section.name))
        lines += [f"{k} = {_toml_value(v)}" for k, v in values.items() if v is not None]
        lines.append("")
    return "\n".join(lines)


def _at_least(section: object, prefix: str, low: int, *names: str) -> None:
    """Refuse values below a bound, and NaN, which no training survives."""
    for name in names:
        value = getattr(section, name)
        if value is not None and not value >= low:
            raise ConfigError(f"{prefix}.{name} = {value!r} must be at least {low}")


def _in_range(
    section: object, prefix: str, low: int, high: int, *names: str, below: bool = False
) -> None:
    """Refuse values outside [low, high], or with `below` outside [low, high), and NaN."""
    for name in names:
        value = getattr(section, name)
        if not low <= value <= high or (below and value == high):
            accepted = f"at least {low} and below {high}" if below else f"from {low} to {high}"
            raise ConfigError(f"{prefix}.{name} = {value!r} must be {accepted}")


def _toml_value(value: Any) -> str:  # noqa: ANN401 (any TOML scalar)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    # a JSON string is a TOML string, but for the one control character that JSON leaves bare
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _build(cls: type, tree: object, source: str, prefix: str) -> Any:  # noqa: ANN401
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: {prefix.rstrip('.') or 'top level'} must be a table")
    known = {f.name: f.type for f in dataclasses.fields(cls)}
    values = {}
    for key, value in tree.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(known)}"
            raise ConfigError(f"{source}: unknown key {prefix}{key}{hint}")
        kind = known[key]
        if dataclasses.is_dataclass(kind):
            values[key] = _build(typing.cast(type, kind), value, source, f"{prefix}{key}.")
        else:
            values[key] = _coerce(kind, value, source, prefix + key)
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _coerce(kind: Any, value: Any, source: str, key: str) -> Any:  # noqa: ANN401
    """The value as its field's type, or an error; whole numbers may stand for floats."""
    options = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        if value in options:
            return value
        raise ConfigError(
            f"{source}: {key} = {value!r} must be one of {', '.join(map(str, options))}"
        )
    kinds = options if isinstance(kind, types.UnionType) else (kind,)
    if Path in kinds and isinstance(value, str):
        return Path(value)
    if float in kinds and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if type(value) in kinds:
        return value
    names = " or ".join(k.__name__ for k in kinds if k is not type(None))
    raise ConfigError(f"{source}: {key} = {value!r} must be {names}")
