"""A run's files: weights for use, and the state from which it goes on bit for bit."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_leaves, tree_leaves_with_path

from benchmarks import workloads
from benchmarks.harness import Measure, axis
from benchmarks.workloads import Scale
from rap.camera import Camera
from rap.model import checkpoint
from rap.scene import Scene
from rap.train.keeping import on_host
from rap.train.state import Progress, load_state, state_of, write_state
from rap.train.step import Learner, optimise

NUM_ROUNDS = 8
MARK = "benchmark"
PROVENANCE = {"scene": "room", "epoch": "3"}
PROGRESS = Progress(epochs_done=4, best_score=1.5, best_epoch=3)


@pytest.mark.parametrize("part", axis(["state"], full=["weights"]))
@pytest.mark.parametrize("operation", axis(["save", "load"], full=["copy"]))
def bench_checkpoint(
    measure: Measure, tmp_path: Path, device: torch.device, scale: Scale, scene: Scene,
    part: str, operation: str,
) -> None:  # fmt: skip
    """Of a learner that has taken a step; every number comes back as it was.

    Into the system's page cache: nobody waits for the disk. `copy` is what training itself waits
    for, since a thread writes.
    """
    config = workloads.training_config(scale)
    learner = workloads.learner(config, device)
    optimise(learner, workloads.training_batch(scene, 2, scale, device), config, 1.0)
    camera = scene.camera.with_height(scale.image_height)
    path = tmp_path / part
    made = of_weights if part == "weights" else of_state
    file = made(path, learner, camera, workloads.learner(config, device))
    tensors = [leaf for leaf in tree_leaves(file.content) if isinstance(leaf, Tensor)]
    payload = sum(tensor.nbytes for tensor in tensors)
    file.save()

    def copy() -> object:
        copies, ready = on_host(file.content)
        ready()
        return copies

    steps = {"save": file.save, "load": file.load, "copy": copy}
    result = measure(steps[operation], items=payload, unit="bytes", rounds=NUM_ROUNDS)

    num_bytes = path.stat().st_size
    result.metric("file_bytes", num_bytes)
    result.check(num_bytes > payload, f"{num_bytes} bytes for {payload} bytes of tensors")
    left = [found.name for found in tmp_path.iterdir()]
    result.check(left == [path.name], f"files {left} instead of one")
    found = file.load() if operation == "save" else result.value
    wrong = different(found, file.content)
    result.check(not wrong, f"came back changed: {', '.join(wrong)}")


def different(found: object, expected: object) -> list[str]:
    """The paths of what differs in two nested structures, at most three; devices may differ."""
    one, other = (dict(tree_leaves_with_path(tree)) for tree in (found, expected))
    if one.keys() != other.keys():
        return [keystr(path) for path in one.keys() ^ other.keys()][:3]
    return [keystr(path) for path, leaf in one.items() if not same(leaf, other[path])][:3]


def same(found: object, expected: object) -> bool:
    """Whether two leaves are equal; tensors to the bit, and never one and the same memory."""
    if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
        return bool(found == expected)
    apart = found.data_ptr() != expected.data_ptr() or found.numel() == 0
    return apart and found.dtype == expected.dtype and found.cpu().equal(expected.cpu())


@dataclass(frozen=True)
class File:
    """How a file is written and read (then returning what it held), and what it must hold."""

    save: Callable[[], object]
    load: Callable[[], object]
    content: dict[str, object]


def of_weights(path: Path, learner: Learner, camera: Camera, _: Learner) -> File:
    """`best.safetensors` of a run."""
    device = learner.lr_factor.device

    def load() -> dict[str, object]:
        loaded = checkpoint.load(path, device)
        about = {"camera": loaded.camera, "provenance": loaded.provenance}
        return {**about, **loaded.regressor.state_dict()}

    return File(
        save=lambda: checkpoint.save(path, learner.regressor, camera, PROVENANCE),
        load=load,
        content={"camera": camera, "provenance": PROVENANCE, **learner.regressor.state_dict()},
    )


def of_state(path: Path, learner: Learner, _: Camera, fresh: Learner) -> File:
    """`state.pt` of a run, read into a learner that has seen nothing."""

    def load() -> dict[str, object]:
        return training(fresh, load_state(path, fresh, MARK))

    return File(
        save=lambda: write_state(path, state_of(learner, PROGRESS, MARK)),
        load=load,
        content=training(learner, PROGRESS),
    )


def training(learner: Learner, progress: Progress) -> dict[str, object]:
    """All that a training consists of, whatever the program stores of it."""
    assert learner.discriminator is not None
    assert learner.discriminator_optimizer is not None
    return {
        "progress": asdict(progress),
        "num_steps": learner.num_steps,
        "regressor": learner.regressor.state_dict(),
        "pose_loss": learner.pose_loss.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "discriminator": learner.discriminator.state_dict(),
        "discriminator_optimizer": learner.discriminator_optimizer.state_dict(),
    }
