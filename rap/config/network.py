"""Settings of the images, the regressor and its training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rap.config.checks import at_least, check_numbers, in_range

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
BatchNorm = Literal["live", "frozen", "calibrated"]
FeatureLoss = Literal["vicreg", "triplet", "ntxent", "mse"]
Schedule = Literal["constant", "one_cycle", "plateau"]
Execution = Literal["eager", "compiled", "graphed", "compiled+graphed"]


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
    """Images above this size stay in host memory and stream to the device batch by batch; so do
    cached features that do not fit it beside the images."""
    cache_dir: Path | None = None
    """Folder for decoded images, keyed by content; none: decode on every run."""

    def __post_init__(self) -> None:
        at_least(self, "image", 16, "height")
        at_least(self, "image", 0, "num_workers", "device_budget_gib")
        check_numbers(self, "image")


@dataclass(frozen=True)
class ModelConfig:
    """The pose regressor."""

    backbone: str = "b0"
    """`b0` to `b3` (EfficientNet), or `timm:NAME` for any timm model when timm is installed."""
    width: float = 1.0
    """Multiplies EfficientNet's channel counts; published weights and timm's models need 1."""
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
    """Stochastic depth of EfficientNet's last block; earlier blocks get a linear share."""
    translation_level: int = 4
    """Trunk level (stride 2^level) that the translation branch reads."""
    rotation_level: int = 3
    """Trunk level that the rotation branch reads; 3 gives 4x the tokens of 4."""
    feature_dim: int = 128
    """Channels of the adaptation layers, which only the feature and adversarial terms use."""
    batch_norm: BatchNorm = "live"
    """`live`, `frozen` as published (needs pretrained weights), or `calibrated` once and frozen."""

    def __post_init__(self) -> None:
        at_least(self, "model", 1, "dim", "heads", "layers", "feedforward", "head_hidden")
        at_least(self, "model", 1, "feature_dim")
        in_range(self, "model", 0, 1, "dropout", "drop_connect", below=True)
        check_numbers(self, "model")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the named terms; zero removes a term and its cost."""

    pose: float = 1.0
    """Pose of the photographs; at 0 only `feature` and `adversarial` still look at them."""
    rendered: float = 0.0
    """Pose of the photographs re-rendered at their own pose."""
    view: float = 1.0
    """Pose of the synthetic views."""
    feature: float = 0.0
    """Alignment of features of photographs and their renderings."""
    adversarial: float = 0.0
    """Renderings should look real to the discriminator (LSGAN)."""

    def __post_init__(self) -> None:
        at_least(self, "weights", 0, "pose", "rendered", "view", "feature", "adversarial")
        check_numbers(self, "weights")


@dataclass(frozen=True)
class TrainConfig:
    """Training of the regressor."""

    epochs: int = 100
    """Passes over the training photographs."""
    batch_size: int = 8
    """Photographs per step, of all processes together; the views come on top."""
    micro_batches: int = 1
    """Parts of a batch that go through the network one after the other, to save memory. Pose terms
    and `mse` keep their gradients, unless BatchNorm is live: its statistics, and those of the other
    feature losses, are of a part."""
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
    low_resolution_share: float = 0.0
    """Share of the epochs, from the first on, that train on smaller images; 0: off."""
    low_resolution_height: int = 120
    """Height of those smaller images in pixels; validation keeps image.height."""
    freeze_after: float = 1.0
    """Share of the epochs after which the trunk is frozen and the rest learns on; 1: never."""
    cached_features: bool = False
    """Keep a frozen trunk's features of all images from one redraw of the views to the next,
    instead of computing them in each step. Both branches must read one level."""
    augment: float = 0.0
    """Strength of the photometric augmentation of all images; 0: off, 1: as strong as is sane."""
    augment_vignette: float = 0.0
    """Largest share of light lost in the corners, drawn for each image; 0: off."""
    augment_blur_px: float = 0.0
    """Largest deviation of a Gaussian blur in pixels of the network's image; 0: off."""
    precision: Precision = "fp32"
    """Arithmetic of the trunk and the transformers; heads and losses are always fp32."""
    execution: Execution = "eager"
    """`compiled`: network and losses by torch.compile, for a minute or two at first; `graphed`: the
    whole step replayed as one CUDA graph. Falls back by itself, with a line, where that fails."""
    checkpointing: bool = False
    """Compute activations of trunk blocks and encoder layers again in the backward pass instead of
    keeping them: the same gradients in less memory, a third more time."""
    channels_last: bool = False
    """Keep images and convolution weights channels-last in memory; same values, faster on a GPU."""
    validation_fraction: float = 0.1
    """Share of the training photographs held out, in contiguous blocks, to choose the weights."""
    validation_block: int = 0
    """Photographs in each such block; 0: up to five blocks, of 8 or more where that many are."""
    validate_every: int = 1
    """Epochs between validations."""
    save_every: int = 1
    """Epochs between states to resume from; they are written aside while training goes on."""
    patience: int = 0
    """Stop after this many validations without a better score; 0: never."""
    seed: int = 7
    """Seed of every random choice of the training."""

    def __post_init__(self) -> None:
        at_least(self, "train", 1, "epochs", "batch_size", "micro_batches")
        at_least(self, "train", 1, "validate_every", "save_every")
        at_least(self, "train", 0, "learning_rate", "discriminator_lr", "weight_decay")
        at_least(self, "train", 0, "grad_clip", "augment", "patience", "augment_blur_px")
        at_least(self, "train", 0, "validation_block")
        at_least(self, "train", 16, "low_resolution_height")
        in_range(self, "train", 0, 1, "augment_vignette", "low_resolution_share", "freeze_after")
        in_range(self, "train", 0, 1, "ema_decay", "validation_fraction", below=True)
        check_numbers(self, "train")
