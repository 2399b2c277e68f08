"""One optimisation step with all five terms, on photographs, their renderings and views."""

from dataclasses import replace

import pytest
import torch

from benchmarks import paths, workloads
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import Scale
from rap.config import Precision
from rap.scene import Scene
from rap.train.step import optimise

TERMS = {"pose", "rendered", "view", "feature", "adversarial"}
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2, "fp16": 5e-2}
"""Largest relative difference of a term from plain fp32."""
ROUNDING = 1e-5
"""A half precision that differs by less is none."""


def by_default(batch_size: int, precision: str, compiled: bool, channels_last: bool) -> bool:
    """Each switch alone; compiling takes most of a minute, so only one case does."""
    if precision not in ("fp32", "bf16"):
        return False
    switched = compiled or channels_last
    return not switched or ((batch_size, precision) == (8, "bf16") and compiled != channels_last)


@pytest.mark.parametrize(
    ("batch_size", "precision", "compiled", "channels_last"),
    combine(
        axis([8, 64], full=[16, 32]), axis(["fp32"], cuda=["bf16", "tf32", "fp16"]),
        axis([False], cuda=[True]), axis([False], cuda=[True]),
        default=by_default,
    ),
)  # fmt: skip
def bench_train_step(
    measure: Measure, device: torch.device, scale: Scale, scene: Scene,
    batch_size: int, precision: Precision, compiled: bool, channels_last: bool,
) -> None:  # fmt: skip
    """Three images per item of the batch; the first step's terms are those of plain fp32."""
    config = workloads.training_config(
        scale, precision, compiled=compiled, channels_last=channels_last
    )
    batch = workloads.training_batch(scene, batch_size, scale, device)
    with paths.compiler(compiled) as compilation:
        learner = workloads.learner(config, device)
        trunk = [] if compiled else paths.first_arithmetic(learner.regressor.trunk)
        result = measure(
            lambda: optimise(learner, batch, config, 1.0), items=len(batch.images), unit="images"
        )
        expected = paths.ONE_GRAPH if compiled else paths.NOT_COMPILED
        result.check(compilation() == expected, f"{compilation()} instead of {expected}")
    if not compiled:
        arithmetic = replace(paths.ARITHMETIC[precision], channels_last=channels_last)
        result.check(trunk == [arithmetic], f"the trunk computed in {trunk}")
    plain = workloads.training_config(scale)
    reference = optimise(workloads.learner(plain, device), batch, plain, 1.0)
    result.check(set(result.first) == TERMS, f"terms {set(result.first)}")
    difference = max(
        abs(float(result.first[name]) - float(term)) / abs(float(term))
        for name, term in reference.items()
    )
    result.check(
        difference < TOLERANCE[precision], f"a term differs from plain fp32 by {difference:.1e}"
    )
    if precision in ("bf16", "fp16"):
        result.check(difference > ROUNDING, f"fp32 in disguise: differs by {difference:.1e} only")
    if measure.timed:
        result.check(result.value["pose"] < result.first["pose"], "no step lowers the pose loss")
