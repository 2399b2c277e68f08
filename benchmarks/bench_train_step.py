"""One optimisation step with all five terms, on photographs, their renderings and views."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import paths, steps, workloads
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import Scale
from rap.config import Config, Execution, Precision
from rap.scene import Scene
from rap.train.execution import Runner

TERMS = {"pose", "rendered", "view", "feature", "adversarial"}
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2, "fp16": 5e-2}
"""Largest relative difference of a term from plain fp32."""
ROUNDING = 1e-5
"""A half precision that differs by less is none."""


def by_default(
    batch_size: int, precision: str, execution: str, channels_last: bool, checkpointing: bool,
    micro_batches: int,
) -> bool:  # fmt: skip
    """Plain and fast; compiling takes most of a minute, so that waits for `--full`."""
    if precision not in ("fp32", "bf16") or checkpointing or micro_batches > 1:
        return False
    if execution == "eager":
        return batch_size == 8 and not channels_last
    return execution == "graphed" and precision == "bf16" and channels_last


def possible(
    _batch_size: int, precision: str, execution: str, channels_last: bool, checkpointing: bool,
    micro_batches: int,
) -> bool:  # fmt: skip
    """What is slow to compile, in one layout only.

    What saves memory is compared where a small GPU would use it, and plainly.
    """
    plain = (precision, execution, channels_last) == ("fp32", "eager", False)
    if micro_batches > 1:
        return plain or (precision == "bf16" and channels_last and "compiled" not in execution)
    return channels_last or plain or (execution == "eager" and not checkpointing)


CASES = [case for case in combine(
    axis([8], cuda=[64], full=[16, 32]), axis(["fp32"], cuda=["bf16", "tf32", "fp16"]),
    axis(["eager"], cuda=["graphed", "compiled", "compiled+graphed"]), axis([False], cuda=[True]),
    axis([False], full=[True]), axis([1], full=[4]),
    default=by_default,
) if possible(*case.values)]  # fmt: skip


@pytest.mark.parametrize(
    ("batch_size", "precision", "execution", "channels_last", "checkpointing", "micro_batches"),
    CASES,
)
def bench_train_step(
    measure: Measure, device: torch.device, scale: Scale, scene: Scene,
    batch_size: int, precision: Precision, execution: Execution, channels_last: bool,
    checkpointing: bool, micro_batches: int,
) -> None:  # fmt: skip
    """A sample has three images; terms, gradients and moves of a first step are the plain ones.

    Of the same parts: a feature loss and the discriminator's step are of a part of the batch.
    """
    config = workloads.training_config(
        scale, precision, execution=execution, channels_last=channels_last
    )
    config = split(config, micro_batches, checkpointing=checkpointing)
    batch = workloads.training_batch(scene, batch_size, scale, device)
    compiled, recorded = "compiled" in execution, "graphed" in execution
    with paths.compiler(compiled) as compilation:
        learner = workloads.learner(config, device)
        runner = Runner(learner, config, device)
        trunk = [] if compiled else paths.first_arithmetic(learner.regressor.trunk)
        sizes = [] if compiled or recorded else passes(learner.regressor)
        result = measure(lambda: runner(batch, 1.0), items=batch_size, unit="samples")
        expected = paths.ONE_GRAPH if compiled else paths.NOT_COMPILED
        result.check(compilation() == expected, f"{compilation()} instead of {expected}")
        plain = split(workloads.training_config(scale), micro_batches)
        fresh = workloads.learner(plain, device)
        first = steps.first_step(learner, fresh, config, lambda: runner(batch, 1.0))
    result.check(runner.runs == execution, f"steps ran {runner.runs}")
    replayed = runner.num_replays == learner.num_steps
    result.check(replayed == recorded, f"{runner.num_replays} steps were replayed")
    if not compiled:
        arithmetic = replace(paths.ARITHMETIC[precision], channels_last=channels_last)
        result.check(trunk == [arithmetic], f"the trunk computed in {trunk}")
    if not (compiled or recorded):
        expected_sizes = learner.num_steps * micro_batches * [len(batch.images) // micro_batches]
        result.check(sizes == expected_sizes, f"images of the passes: {sizes[:8]}")
    reference, gradients = steps.plain_gradients(fresh, batch, plain)
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
    for ok, message in steps.looked_into(first, learner, fresh, batch, config, gradients):
        result.check(ok, message)


def split(config: Config, micro_batches: int, *, checkpointing: bool = False) -> Config:
    """The same training with what saves memory."""
    train = replace(config.train, micro_batches=micro_batches, checkpointing=checkpointing)
    return replace(config, train=train)


def passes(network: nn.Module) -> list[int]:
    """The number of images of every forward pass from now on."""
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    return sizes
