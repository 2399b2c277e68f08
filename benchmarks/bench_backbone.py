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
TOLERANCE = {"fp32": (1e-4, 1e-4), "bf16": (0.15, 0.35)}
"""Of maps and gradients against float64, as a share of their norms; a bf16 has eight bits."""
ROUNDING = 1e-3
"""A half precision that is nearer to float64 is none."""


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

    def step(kind: Precision = precision) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        with tf32_scope(kind), torch.set_grad_enabled(learns):
            with precision_scope(kind, device):
                maps = trunk(on_device)
            if not learns:
                return maps, ()
            gradient = torch.autograd.grad(maps, parameters, slopes)
            return [part.detach() for part in maps], gradient

    flop = network.flop_of(step)
    seen = paths.first_arithmetic(trunk)
    result = measure(step, items=len(images), unit="images", clock="gpu", flop=flop, replay=True)

    result.check(seen == [paths.ARITHMETIC[precision]], f"the trunk computed in {seen}")
    weights = plain.in_float64(trunk)
    levels = plain.efficientnet(weights, variant, on_device.double(), live=learns)
    exact = [levels[level] for level in network.LEVELS]
    gradient: tuple[Tensor, ...] = ()
    if learns:
        of_weights = [weights[name] for name, _ in trunk.named_parameters()]
        gradient = torch.autograd.grad(exact, of_weights, [slope.double() for slope in slopes])
    # The same weights in fp32 are held to more than half precision can be.
    for kind, found in {"fp32": step("fp32"), precision: result.value}.items():
        off = plain.error(found[0], exact)
        result.check(off < TOLERANCE[kind][0], f"maps in {kind} are {off:.1e} off float64")
        if learns:
            off = plain.error(found[1], gradient)
            result.check(off < TOLERANCE[kind][1], f"gradients in {kind} are {off:.1e} off float64")
        real = kind == "fp32" or off > ROUNDING
        result.check(real, f"fp32 in disguise: {kind} is {off:.1e} off float64 only")
