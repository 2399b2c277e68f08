"""The trunk against the published tables, and its padding, stochastic depth and errors."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rap.config import ConfigError
from rap.model.backbone import (
    VARIANTS,
    Block,
    BlockSpec,
    block_table,
    build_trunk,
    pointwise,
)

LEVELS = (4, 3)


def small(drop_connect: float = 0.2) -> Any:  # noqa: ANN401 (EfficientNet or timm)
    """A thin trunk in evaluation mode."""
    return build_trunk("b0", 0.25, drop_connect, LEVELS).eval()


@pytest.mark.parametrize(
    ("variant", "num_blocks", "channels"),
    [
        ("b0", 16, (16, 24, 40, 112, 320)),
        ("b1", 23, (16, 24, 40, 112, 320)),
        ("b2", 23, (16, 24, 48, 120, 352)),
        ("b3", 26, (24, 32, 48, 136, 384)),
    ],
)
def test_variants_have_the_published_widths_and_depths(
    variant: str, num_blocks: int, channels: tuple[int, ...]
) -> None:
    """Channels of the five levels and block counts are those of EfficientNet's reference code."""
    table = block_table(*VARIANTS[variant])
    assert len(table) == num_blocks
    last = {spec.level: spec.out_channels for spec in table}
    assert tuple(last[level] for level in range(1, 6)) == channels


def test_b0_cut_at_stride_16_has_the_published_parameters() -> None:
    """Everything behind block 10 is left out: 851,808 of B0's parameters remain."""
    trunk = build_trunk("b0", 1.0, 0.2, LEVELS)
    assert sum(p.numel() for p in trunk.parameters()) == 851_808
    assert trunk.channels == (112, 40)


@pytest.mark.parametrize(("levels", "num_blocks"), [((3, 3), 5), ((5, 1), 16), ((4, 3), 11)])
def test_trunk_ends_at_the_deepest_level_read(levels: tuple[int, int], num_blocks: int) -> None:
    """No block is computed whose output nobody reads."""
    trunk: Any = build_trunk("b0", 0.25, 0.2, levels)
    assert len(trunk.blocks) == num_blocks


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47), (63, 95), (90, 89)])
def test_each_level_halves_and_rounds_down(height: int, width: int) -> None:
    """Static padding makes level l exactly size // 2^l, also for odd sizes."""
    coarse, fine = small()(torch.zeros(1, 3, height, width))
    assert coarse.shape[-2:] == (height // 16, width // 16)
    assert fine.shape[-2:] == (height // 8, width // 8)


@pytest.mark.parametrize(("kernel", "before", "after"), [(3, 0, 1), (5, 1, 2)])
def test_strided_block_pads_as_tensorflow_does(kernel: int, before: int, after: int) -> None:
    """A strided depthwise convolution equals one with the published padding written out."""
    block = Block(BlockSpec(kernel, 2, 1, 8, 8, 2), drop_rate=0.0).eval()
    x = torch.randn(2, 8, 13, 17)
    seen = []
    block.depthwise.register_forward_hook(lambda *called: seen.append(called[2]))
    block(x)
    padded = F.pad(x, (before, after, before, after))
    expected = F.conv2d(padded, block.depthwise.weight, stride=2, groups=8)
    torch.testing.assert_close(seen[0], expected)


def test_stochastic_depth_counts_the_whole_network() -> None:
    """Block i of B0 is dropped with 0.2 · i / 16, although only 11 blocks are built."""
    blocks = small().blocks
    assert [block.drop_rate for block in blocks] == [0.2 * i / 16 for i in range(11)]


def test_stochastic_depth_drops_whole_samples_and_rescales() -> None:
    """In training each sample keeps its residual alone, or gets the branch doubled at rate ½."""
    torch.manual_seed(0)
    block = Block(BlockSpec(3, 1, 6, 8, 8, 1), drop_rate=0.5).eval()
    x = torch.randn(32, 8, 5, 5)
    branch = block(x) - x
    block.training = True
    y = block(x)
    dropped = (y == x).flatten(1).all(1)
    assert 0 < int(dropped.sum()) < 32
    torch.testing.assert_close(y[~dropped], (x + 2 * branch)[~dropped])


def test_evaluation_is_deterministic() -> None:
    """Stochastic depth is off outside training, even at rate 1."""
    trunk = small(drop_connect=1.0)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(trunk(x), trunk(x), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(5, 7), (1, 1)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_pointwise_is_the_convolution(
    size: tuple[int, int], biased: bool, channels_last: bool
) -> None:
    """Value, gradients and memory layout, whichever way it is computed."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    conv = nn.Conv2d(6, 4, 1, bias=biased, dtype=torch.float64)
    x = torch.randn(3, 6, *size, dtype=torch.float64).contiguous(memory_format=layout)
    free = [x.requires_grad_(), *conv.parameters()]
    found, expected = pointwise(x, conv.weight, conv.bias), conv(x)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=layout)
    slope = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, free, slope) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_with_channels_last_only_wide_kernels_are_convolved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the three convolutions of a block, the depthwise one; 1×1 are matrix products."""
    trunk, x = small(), torch.rand(2, 3, 48, 40).contiguous(memory_format=torch.channels_last)
    kernels: list[int] = []
    convolve = torch.nn.functional.conv2d

    def seen(x: Tensor, weight: Tensor, *others: object) -> Tensor:
        kernels.append(weight.shape[-1])
        return convolve(x, weight, *others)  # pyrefly: ignore (as conv2d takes them)

    monkeypatch.setattr(torch.nn.functional, "conv2d", seen)
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda conv, x, weight, bias: seen(
        x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups))  # fmt: skip
    trunk(x)
    assert kernels
    assert min(kernels) >= 3


def test_channels_last_gives_the_same() -> None:
    """The memory layout that is fast on GPUs changes nothing but rounding."""
    trunk, x = small(), torch.rand(2, 3, 48, 40)
    plain = trunk(x)
    fast = trunk.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "width", "levels", "message"),
    [
        ("b9", 1.0, LEVELS, "b9.*b0, b1, b2, b3"),
        ("resnet", 1.0, LEVELS, "timm:NAME"),
        ("b0", 0.0, LEVELS, "model.width = 0.0"),
        ("b0", 1.0, (6, 3), "within 1 to 5"),
    ],
)
def test_impossible_trunk_is_refused(
    name: str, width: float, levels: tuple[int, int], message: str
) -> None:
    """The error names the setting, its value and what is accepted."""
    with pytest.raises(ConfigError, match=message):
        build_trunk(name, width, 0.2, levels)


def test_timm_backbone_without_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where timm is not installed the error says how to get it."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"rap\[timm\]"):
        build_trunk("timm:resnet18", 1.0, 0.2, LEVELS)


def need_timm() -> None:
    pytest.importorskip("timm", reason="needs timm: pip install 'rap[timm]'")


@pytest.mark.filterwarnings("ignore")  # timm's own imports warn
def test_timm_backbone_gives_the_levels_asked_for() -> None:
    """Any timm model with feature maps serves as trunk; here a ResNet at strides 16 and 8."""
    need_timm()
    trunk = build_trunk("timm:resnet18", 1.0, 0.2, LEVELS).eval()
    coarse, fine = trunk(torch.rand(1, 3, 64, 96))
    assert trunk.channels == (256, 128)
    assert coarse.shape == (1, 256, 4, 6)
    assert fine.shape == (1, 128, 8, 12)


@pytest.mark.filterwarnings("ignore")  # timm's own imports warn
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_model", "no such model"),
        ("vit_tiny_patch16_224", "not at 8"),
        ("swin_tiny_patch4_window7_224", "NHWC"),
    ],
)
def test_unusable_timm_backbone_is_refused(name: str, message: str) -> None:
    """A name that timm does not know, and a model without a feature map of the stride."""
    need_timm()
    with pytest.raises(ConfigError, match=message):
        build_trunk(f"timm:{name}", 1.0, 0.2, LEVELS)
