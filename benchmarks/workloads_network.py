"""Seeded inputs of the network's parts. Appended to, never changed, as `workloads.py`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.workloads import SEED, Scale
from rap.config import ModelConfig
from rap.geometry import rigid, rotation_from_6d
from rap.model.backbone import EfficientNetTrunk, build_trunk
from rap.model.transformer import Encoder, PositionTable

LEVELS = (4, 3)
"""Of the trunk's maps that translation and rotation read, as published."""
Shape = Sequence[int]


def paired_features(
    num: int, scale: Scale
) -> tuple[Float[Tensor, "2 n c h w"], Float[Tensor, "2 n c h w"]]:
    """Features of `num` renderings, and of the photographs that they resemble.

    Of the size that the adaptation layers give. The images of a scene resemble each other, so that
    no hinge is past its end.
    """
    generator = torch.Generator().manual_seed(SEED)
    height = scale.image_height // 2 ** LEVELS[1]
    shape = (2, num, scale.model.feature_dim, height, height * 4 // 3)
    real = torch.randn(shape, generator=generator)
    real += 0.4 * torch.randn(2, 1, shape[2], 1, 1, generator=generator)
    real += 0.2 * torch.randn(*shape[:3], 1, 1, generator=generator)
    return real + 0.5 * torch.randn(shape, generator=generator), real


def predicted_poses(
    num: int,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3 3"], Float[Tensor, "n 4 4"]]:
    """Translations and rotations as a network predicts them, and the true poses."""
    generator = torch.Generator().manual_seed(SEED)
    turned = rotation_from_6d(torch.randn(num, 6, generator=generator))
    true = rigid(turned, torch.randn(num, 3, generator=generator))
    shift = 0.3 * torch.randn(num, 3, generator=generator)
    turn = 0.1 * torch.randn(num, 3, 3, generator=generator)
    return true[:, :3, 3] + shift, true[:, :3, :3] + turn, true


def seeded_trunk(
    variant: str, config: ModelConfig, images: Float[Tensor, "n 3 h w"]
) -> EfficientNetTrunk:
    """A random trunk without drop connect, on the images' device, in training mode.

    Its stored statistics are those of the images, so that evaluation lets something through, too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        trunk = build_trunk(variant, config.width, 0.0, LEVELS)
    assert isinstance(trunk, EfficientNetTrunk)
    trunk.to(images.device).train()
    norms = [part for part in trunk.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        trunk(images)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    return trunk


def seeded_encoder(
    layers: int, config: ModelConfig, cells: tuple[int, int], num: int, device: torch.device
) -> tuple[Encoder, Float[Tensor, "n t d"], Float[Tensor, "t d"]]:
    """An encoder without dropout, tokens of `num` images with `cells` rows and columns, positions.

    The weights of queries and keys are twice the usual, so that attention is not uniform.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        encoder = Encoder(config.dim, config.heads, layers, config.feedforward, 0.0)
        positions = PositionTable(config.dim)(*cells).detach()
        tokens = torch.randn(num, len(positions), config.dim)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if name.endswith("qkv.weight"):
                weight[: 2 * config.dim] *= 2
    return encoder.to(device), tokens.to(device), positions.to(device)


def random_like(outputs: Sequence[Tensor]) -> list[Tensor]:
    """A slope for each output, of a size that keeps their weighted sum near one."""
    generator = torch.Generator().manual_seed(SEED + 1)
    return [
        torch.randn(part.shape, generator=generator).to(part.device) / part.numel() ** 0.5
        for part in outputs
    ]


def flop_of(step: Callable[[], object]) -> int:
    """What convolutions and matrix products of a step compute, backward pass included."""
    with FlopCounterMode(display=False, custom_mapping=_flop_formulas()) as counter:
        step()
    return counter.get_total_flops()


def _flop_formulas() -> dict[Any, Callable[..., int]]:
    """By shapes: of our own operators, and of convolutions' gradients, each as much as forward.

    torch counts a weight's gradient as that of a dense kernel: 13 times a whole B0's step.
    """

    def product(outputs: Shape, weight: Shape) -> int:
        return 2 * math.prod(outputs) * math.prod(weight[1:])

    def gradients(grad: Shape, x: Shape, weight: Shape, *rest: Any, **_: object) -> int:  # noqa: ANN401 (torch's)
        of_x, of_weight, _ = rest[-1]
        return (of_x + of_weight) * product(grad, weight)

    formulas = {
        "depthwise": lambda _, weight, *__, out_shape: product(out_shape, weight),
        "depthwise_silu": lambda _, weight, *__, out_shape: product(out_shape, weight),
        "depthwise_input_gradient": lambda grad, weight, *_, out_shape: product(grad, weight),
        "depthwise_weight_gradient": lambda grad, *_, out_shape: product(grad, out_shape),
    }
    own = torch.ops.rap
    return {
        torch.ops.aten.convolution_backward: gradients,
        # A base arm's package may lack some.
        **{getattr(own, name): of for name, of in formulas.items() if hasattr(own, name)},
    }
