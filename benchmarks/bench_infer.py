"""Photographs to poses, the network alone: latency at one image, throughput at many."""

import copy
from typing import cast

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import paths, workloads
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import Scale
from rap.config import Precision
from rap.evaluate import pose_errors, predict
from rap.scene import Scene, centres

TOLERANCE = {"fp32": 1e-3, "tf32": 0.1, "bf16": 0.5, "fp16": 0.1}
"""Largest error against float64, as a share of what is usual between the poses of two images.

The weights are random: what they make of an image is small beside what all images share, and half
precision rounds both.
"""
ROUNDING_M = 1e-4
"""A half precision that differs by less is none."""


def flop_of(network: nn.Module, images: Float[Tensor, "b 3 h w"]) -> int:
    """What convolutions and matrix products compute in a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return counter.get_total_flops()


def by_default(batch_size: int, precision: str, compiled: bool) -> bool:
    """Compiling takes half a minute, so only one case does."""
    if precision not in ("fp32", "bf16"):
        return False
    return not compiled or (batch_size, precision) == (1, "bf16")


@pytest.mark.parametrize(
    ("batch_size", "precision", "compiled"),
    combine(
        axis([1, 64], full=[8, 32, 256]), axis(["fp32"], cuda=["bf16", "tf32", "fp16"]),
        axis([False], cuda=[True]),
        default=by_default,
    ),
)  # fmt: skip
def bench_infer(
    measure: Measure, device: torch.device, scale: Scale, scene: Scene,
    batch_size: int, precision: Precision, compiled: bool,
) -> None:  # fmt: skip
    """From uint8 images on the device to poses on the host; they are those of float64."""
    photos = workloads.photographs(scene, scale.image_height).to(device)
    regressor = workloads.responsive_regressor(scale.model, photos[:32] / 255, centres(scene.train))
    chosen = torch.arange(batch_size, device=device) % len(photos)
    images = photos[chosen]
    flop = flop_of(regressor, images[:1] / 255) * batch_size
    with paths.compiler(compiled) as compilation:
        network = cast(nn.Module, torch.compile(regressor)) if compiled else regressor
        trunk = [] if compiled else paths.first_arithmetic(regressor.trunk)
        result = measure(
            lambda: predict(network, images, device, batch_size, precision),
            items=batch_size, unit="images", flop=flop,
        )  # fmt: skip
        expected = paths.ONE_GRAPH if compiled else paths.NOT_COMPILED
        result.check(compilation() == expected, f"{compilation()} instead of {expected}")
    if not compiled:
        result.check(trunk == [paths.ARITHMETIC[precision]], f"the trunk computed in {trunk}")
    with torch.no_grad():
        exact = copy.deepcopy(regressor).double()(photos.double() / 255).world_from_camera
    off = pose_errors(result.value, exact[chosen])
    apart = pose_errors(exact.roll(1, dims=0), exact)
    result.metric("off_m", float(off.translation_m.median()))
    result.metric("off_deg", float(off.rotation_deg.median()))
    share = max(
        float(wrong.max() / usual.median())
        for wrong, usual in (
            (off.translation_m, apart.translation_m),
            (off.rotation_deg, apart.rotation_deg),
        )
    )
    result.check(share < TOLERANCE[precision], f"off the plain answer by {share:.2%} of the spread")
    if precision in ("bf16", "fp16"):
        off_m = float(off.translation_m.max())
        result.check(off_m > ROUNDING_M, f"fp32 in disguise: off by {off_m:.1e} m only")
