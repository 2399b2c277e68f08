"""The convolutional trunk: EfficientNet B0-B3 up to the deepest level read, or a timm model.

Level `l` is the last feature map at stride 2^l. Padding is TensorFlow's SAME for even inputs: total
`kernel − stride`, the larger part at the right and bottom. That is what the ImageNet weights
were trained with, and it is kept for odd inputs, too, because published RAP weights were.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rap.config import ConfigError
from rap.model.activation import norm_silu
from rap.model.depthwise import depthwise, depthwise_silu, exporting, same_convolution
from rap.model.recompute import cheap_again, recomputed
from rap.model.squeeze import squeezed_projection, usable

# Width and depth multipliers: Tan & Le, "EfficientNet", ICML 2019, and its reference code.
VARIANTS = {"b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4)}
STEM_CHANNELS = 32
SQUEEZE_RATIO = 0.25
BN_EPS = 1e-3
BN_MOMENTUM = 0.01

# Table 1 of the paper: kernel, stride, expansion, channels, repeats.
STAGES = (
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1),
)  # fmt: skip


@dataclass(frozen=True)
class BlockSpec:
    """One inverted-residual block, and the level (log2 of the stride) of its output."""

    kernel: int
    stride: int
    expansion: int
    in_channels: int
    out_channels: int
    level: int


def rounded_channels(channels: int, width: float) -> int:
    """Scaled by `width`, rounded to a multiple of 8, and never more than 10 % below the product."""
    if width == 1.0:
        return channels
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def block_table(width: float, depth: float) -> list[BlockSpec]:
    """All blocks of a variant, from the stem on; B0 has 16."""
    blocks = []
    channels, level = rounded_channels(STEM_CHANNELS, width), 1
    for kernel, stage_stride, expansion, stage_channels, repeats in STAGES:
        for index in range(math.ceil(depth * repeats)):
            stride = stage_stride if index == 0 else 1
            level += stride == 2
            out = rounded_channels(stage_channels, width)
            blocks.append(BlockSpec(kernel, stride, expansion, channels, out, level))
            channels = out
    return blocks


def _conv(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, drawn as EfficientNet does: normal, variance 2 / fan-out."""
    # A strided one is padded asymmetrically by same_convolution.
    padding = kernel // 2 if stride == 1 else 0
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
    nn.init.normal_(conv.weight, std=math.sqrt(2.0 / (kernel * kernel * out_channels)))
    return conv


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Conv2d:
    padding = kernel // 2 if stride == 1 else 0
    conv = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=False)
    nn.init.normal_(conv.weight, std=math.sqrt(2.0) / kernel)
    return conv


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1×1 convolution, of one pixel or with channels last as the matrix product that it is.

    cuDNN compiles its half-precision kernels anew in each process, for each shape and direction.
    Exported files keep the convolution, which other programs know how to lay out.
    """
    if x.shape[2] == x.shape[3] == 1:
        return F.linear(x.flatten(1), weight.flatten(1), bias)[:, :, None, None]
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    if not channels_last or exporting():
        return F.conv2d(x, weight, bias)
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def _project_gated(wide: Tensor, gate: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1×1 convolution of a product."""
    return pointwise(wide * gate, weight, bias)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


class Block(nn.Module):
    """Expand, depthwise convolution, squeeze and excite, project; a residual where shapes allow."""

    __call__: Callable[[Tensor], Tensor]

    def __init__(self, spec: BlockSpec, drop_rate: float) -> None:
        super().__init__()
        wide = spec.in_channels * spec.expansion
        squeezed = max(1, int(spec.in_channels * SQUEEZE_RATIO))
        self.drop_rate = drop_rate
        self.residual = spec.stride == 1 and spec.in_channels == spec.out_channels
        self.expand = _conv(spec.in_channels, wide) if spec.expansion > 1 else None
        self.expand_norm = _norm(wide) if spec.expansion > 1 else None
        self.depthwise = _depthwise(wide, spec.kernel, spec.stride)
        self.depthwise_norm = _norm(wide)
        self.squeeze = nn.Conv2d(wide, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, wide, 1)
        self.project = _conv(wide, spec.out_channels)
        self.project_norm = _norm(spec.out_channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Features of the next block."""
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = norm_silu(self.expand_norm, pointwise(y, self.expand.weight, self.expand.bias))
        if usable(self.depthwise, self.project, y):
            return squeezed_projection(
                self.depthwise, self.squeeze, self.excite, self.project, y,
                x if self.residual else None,
            )  # fmt: skip
        y = self._filtered(y)
        # As adaptive_avg_pool2d, whose gradient takes a detour over strides.
        squeezed = pointwise(y.mean((2, 3), keepdim=True), self.squeeze.weight, self.squeeze.bias)
        gate = pointwise(F.silu(squeezed), self.excite.weight, self.excite.bias).sigmoid()
        y = cheap_again(_project_gated, y, gate, self.project.weight, self.project.bias)
        y = self.project_norm(y)
        if not self.residual:
            return y
        if self.training and self.drop_rate > 0:
            # Stochastic depth: dropout of whole samples.
            y = y * F.dropout(y.new_ones(y.shape[0], 1, 1, 1), self.drop_rate)
        return x + y

    def _filtered(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        if isinstance(self.depthwise_norm, nn.Identity):
            return depthwise_silu(self.depthwise, x)
        return norm_silu(self.depthwise_norm, depthwise(self.depthwise, x))


class EfficientNetTrunk(nn.Module):
    """EfficientNet cut after the deepest of `levels`; `channels` are those of each level."""

    __call__: Callable[[Tensor], list[Tensor]]
    recompute = False
    """Whether training keeps only the blocks' inputs."""

    def __init__(
        self, variant: str, width: float, drop_connect: float, levels: Sequence[int]
    ) -> None:
        super().__init__()
        variant_width, depth = VARIANTS[variant]
        table = block_table(variant_width * width, depth)
        last = {spec.level: index for index, spec in enumerate(table)}
        self.random = drop_connect > 0
        self.ends = tuple(last[level] for level in levels)
        self.channels = tuple(table[end].out_channels for end in self.ends)
        self.stem = _conv(3, table[0].in_channels, kernel=3, stride=2)
        self.stem_norm = _norm(table[0].in_channels)
        # The share of stochastic depth counts the whole network's blocks, also those cut off.
        self.blocks = nn.ModuleList(
            Block(spec, drop_connect * index / len(table))
            for index, spec in enumerate(table[: max(self.ends) + 1])
        )

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        """Feature maps of the levels asked for, in that order, from ImageNet-normalised images."""
        x = norm_silu(self.stem_norm, same_convolution(self.stem, images))
        kept = {}
        recompute = self.recompute and self.training
        for index, block in enumerate(self.blocks):
            x = recomputed(block, x, random=self.random) if recompute else block(x)
            if index in self.ends:
                kept[index] = x
        return [kept[end] for end in self.ends]


class TimmTrunk(nn.Module):
    """Feature maps of a timm model, randomly initialised, at the strides asked for."""

    __call__: Callable[[Tensor], list[Tensor]]

    def __init__(self, name: str, levels: Sequence[int]) -> None:
        super().__init__()
        timm = _import_timm()
        if not timm.is_model(name):
            raise ConfigError(
                f"model.backbone = 'timm:{name}': timm {timm.__version__} has no such model"
            )
        reductions = timm.create_model(name, features_only=True).feature_info.reduction()
        # The deepest feature map of a stride, where there are several.
        indices = {reduction: index for index, reduction in enumerate(reductions)}
        missing = [level for level in levels if 2**level not in indices]
        if missing:
            raise ConfigError(
                f"model.backbone = 'timm:{name}' has feature maps at strides {reductions}, "
                f"not at {', '.join(str(2**level) for level in missing)}"
            )
        wanted = sorted({indices[2**level] for level in levels})
        self.body = timm.create_model(name, features_only=True, out_indices=wanted)
        self.order = tuple(wanted.index(indices[2**level]) for level in levels)
        layout = getattr(getattr(self.body, "output_fmt", None), "value", "NCHW")
        if layout != "NCHW":
            raise ConfigError(
                f"model.backbone = 'timm:{name}' gives {layout} feature maps; only NCHW can be used"
            )
        found = self.body.feature_info.channels()
        self.channels = tuple(found[index] for index in self.order)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        """Feature maps of the levels asked for, in that order, from ImageNet-normalised images."""
        outputs = self.body(images)
        return [outputs[index] for index in self.order]


def build_trunk(
    name: str, width: float, drop_connect: float, levels: Sequence[int]
) -> EfficientNetTrunk | TimmTrunk:
    """The trunk that `name` describes; ConfigError for one that does not exist.

    `width` and `drop_connect` shape EfficientNet only; timm's models have a name per width.
    """
    if name.startswith("timm:"):
        if width != 1:
            raise ConfigError(
                f"model.width = {width!r} shapes EfficientNet only, not model.backbone = {name!r}: "
                "timm has a name for each width; accepted: 1"
            )
        return TimmTrunk(name.removeprefix("timm:"), levels)
    if name not in VARIANTS:
        raise ConfigError(
            f"model.backbone = {name!r} must be one of {', '.join(VARIANTS)}, or timm:NAME"
        )
    if not width > 0:
        raise ConfigError(f"model.width = {width} must be positive")
    if any(level not in range(1, 6) for level in levels):
        raise ConfigError(f"model levels {tuple(levels)} must be within 1 to 5 (stride 2^level)")
    return EfficientNetTrunk(name, width, drop_connect, levels)


def _import_timm():  # noqa: ANN202 (a module that may not be installed)
    try:
        return importlib.import_module("timm")
    # RuntimeError: what a torchvision raises that was built for another torch.
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"model.backbone = 'timm:...' needs timm (pip install 'rap[timm]'): {error}"
        ) from error
