"""What `train_step` looks into, red for every fault of a step and for no sound one."""

from collections.abc import Iterator

import pytest
import torch

from benchmarks import steps, workloads
from benchmarks.bench_train_step import split
from benchmarks.sabotage import sabotage
from benchmarks.workloads import CPU_SCALE
from rap.config import Precision
from rap.train.execution import Runner

CPU = torch.device("cpu")


def complaints(precision: Precision, micro_batches: int, *, checkpointing: bool) -> Iterator[str]:
    """What the benchmark would say of steps on four photographs, after two of them."""
    config = workloads.training_config(CPU_SCALE, precision)
    plain = split(workloads.training_config(CPU_SCALE), micro_batches)
    config = split(config, micro_batches, checkpointing=checkpointing)
    scene = workloads.scene("room", CPU_SCALE.room)
    batch = workloads.training_batch(scene, 4, CPU_SCALE, CPU)
    learner = workloads.learner(config, CPU)
    runner = Runner(learner, config, CPU)
    for _ in range(2):
        runner(batch, 1.0)
    fresh = workloads.learner(plain, CPU)
    first = steps.first_step(learner, fresh, config, lambda: runner(batch, 1.0))
    _, exact = steps.plain_gradients(fresh, batch, plain)
    looked = steps.looked_into(first, learner, fresh, batch, config, exact)
    return (message for ok, message in looked if not ok)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("micro_batches", "checkpointing"), [(1, False), (2, True)])
def test_sound_steps_are_green(
    precision: Precision, micro_batches: int, checkpointing: bool
) -> None:
    """With what saves memory and without."""
    assert list(complaints(precision, micro_batches, checkpointing=checkpointing)) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("drop=pose", "the gradient of rotation_branch is off"),
        ("drop=adversarial", "a loud adversarial term is off"),
        ("idle=network", "the gradient of trunk is off by 1"),
        ("idle=discriminator", "the gradient of discriminator is off by 1"),
        ("parts=last", "the gradient of trunk is off"),
        ("parts=sum", "the gradient of trunk is off"),
        ("keep", "blocks ran [2, 2] times in a step, not 4"),
    ],
)
def test_a_fault_of_a_step_is_told(precision: Precision, fault: str, said: str) -> None:
    """Each by its own complaint; all of them passed where only the terms were looked at."""
    with sabotage(fault):
        assert any(said in text for text in complaints(precision, 2, checkpointing=True))
