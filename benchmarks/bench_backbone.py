"""The convolutional trunk alone: what each variant and image size costs."""

import pytest
import torch
from torch import Tensor

from benchmarks import paths, plain
from benchmarks import workloads_network as network
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import SEED, Scale
from rap.config import Precision
from rap.model.precision import precision_scope, tf32_scope

NUM_IMAGES = {"cpu": 2, "cuda": 24}
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
"""Of maps and gradients against float64, as a share of their norms."""


def by_default(variant: str, height: int, precision: str, direction: str) -> bool:
    """Training in full; on a GPU another variant, another size and the other direction, too."""
    if (height, precision) == (120, "fp32"):
        return (variant, direction) == ("b0", "training")
    return precision == "bf16" and height == 240 and direction == "training"


@pytest.mark.parametrize(
    ("variant", "height", "precision", "direction"),
    combine(
        axis(["b0", "b3"], full=["b1", "b2"]), axis([120], cuda=[240, 480], full=[60]),
        axis(["fp32"], cuda=["bf16"]), axis(["training"], full=["inference"]),
        default=by_default,
    ),
)  # fmt: skip
def bench_backbone(
    measure: Measure, device: torch.device, scale: Scale,
    variant: str, height: int, precision: Precision, direction: str,
) -> None:  # fmt: skip
    """Both levels' maps, and in training every weight's gradient, are those of the paper's table.

    Training has live BatchNorm and no drop connect, inference the statistics of the images.
    """
    generator = torch.Generator().manual_seed(SEED)
    shape = (NUM_IMAGES[device.type], 3, height, height * 4 // 3)
    images = torch.randn(shape, generator=generator)
    on_device = images.to(device)
    trunk = network.seeded_trunk(variant, scale.model, on_device)
    learns = direction == "training"
    trunk.train(learns)
    with torch.no_grad():
        slopes = network.random_like(trunk(on_device))
    parameters = list(trunk.parameters())

    def step() -> tuple[list[Tensor], tuple[Tensor, ...]]:
        with tf32_scope(precision), torch.set_grad_enabled(learns):
            with precision_scope(precision, device):
                maps = trunk(on_device)
            if not learns:
                return maps, ()
            gradient = torch.autograd.grad(maps, parameters, slopes)
            return [part.detach() for part in maps], gradient

    flop = network.flop_of(step)
    seen = paths.first_arithmetic(trunk)
    result = measure(step, items=len(images), unit="images", clock="gpu", flop=flop)

    result.check(seen == [paths.ARITHMETIC[precision]], f"the trunk computed in {seen}")
    weights = plain.in_float64(trunk)
    levels = plain.efficientnet(weights, variant, on_device.double(), live=learns)
    exact = [levels[level] for level in network.LEVELS]
    off = plain.error(result.value[0], exact)
    result.check(off < TOLERANCE[precision], f"the maps differ from float64 by {off:.1e}")
    if learns:
        of_weights = [weights[name] for name, _ in trunk.named_parameters()]
        gradient = torch.autograd.grad(exact, of_weights, [slope.double() for slope in slopes])
        off = plain.error(result.value[1], gradient)
        result.check(off < TOLERANCE[precision], f"the gradient differs from float64 by {off:.1e}")
