"""One of the processes that `bench_scaling` starts: steps of training beside the others.

Run by torch.distributed.run as a module, with one argument: the fields of `Wanted` as JSON.
"""

import ctypes
import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import rap
from benchmarks import clouds, workloads
from benchmarks.workloads import SEED, Scale
from rap.config import Execution, ViewsConfig
from rap.data.images import ImageBank
from rap.synthesis.drawing import prepared
from rap.synthesis.stream import ViewStream
from rap.synthesis.views import anchors_of
from rap.train.batches import Batch
from rap.train.distributed import Ranks, current
from rap.train.execution import Runner
from rap.train.launch import joined
from rap.train.step import Terms

WINDOWS, MIN_WINDOW_S = 5, {"cuda": 1.0, "cpu": 0.0}
"""How often the time is taken, and for at least how long each."""
PR_SET_PDEATHSIG = 1
NUM_ROWS = 64
"""Views in each bank."""


@dataclass(frozen=True)
class Wanted:
    """What the processes are to do."""

    device: str
    batch_size: int
    """Photographs per process and step."""
    execution: Execution
    views: int
    """That each process draws beside a step."""
    out: str
    """Where rank 0 writes what was found."""


@dataclass(frozen=True)
class Found:
    """What rank 0 reports."""

    world: int
    runs: str
    """How steps ran in the end."""
    step_s: list[float]
    """Of each window, the slowest rank's."""
    first: dict[str, float]
    last: dict[str, float]
    """Terms, mean over the ranks."""
    peak_gpu_bytes: int
    drawn: int
    """Views that all processes drew."""
    steps: int
    source: str
    """The package that was measured."""


def end_with_parent() -> None:
    """Be killed when the launcher dies, where the system can (Linux).

    The launcher gives each rank a session of its own, so stopping a benchmark and its whole process
    group would leave the ranks on their GPUs.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def work(wanted: Wanted) -> None:
    """Train, take times, and compare the ranks' weights."""
    with joined(wanted.device, "measure again") as name:
        # A function of its own: when the ranks part, its recorded graphs are gone.
        found = _found(wanted, torch.device(name), current())
        if current().leads:
            Path(wanted.out).write_text(json.dumps(asdict(found)), encoding="utf-8")


def _found(wanted: Wanted, device: torch.device, ranks: Ranks) -> Found:
    scale, on_gpu = workloads.scale_for(device), device.type == "cuda"
    config = workloads.training_config(
        scale, "bf16" if on_gpu else "fp32", execution=wanted.execution, channels_last=on_gpu
    )
    learner = workloads.learner(config, device)
    learner.join(ranks)
    runner, stream = Runner(learner, config, device), _stream(wanted, scale, ranks, device)
    batch = _own_batch(wanted, scale, ranks, device)

    def step() -> Terms:
        terms = runner(batch, 1.0)
        if stream is not None:
            stream.advance(runner.num_steps, SEED + runner.num_steps)
        return terms

    first = _means(step(), ranks)
    step_s, last = _timed(step, ranks, device)
    # Every rank counts its own.
    drawn = 0 if stream is None else ranks.total(stream.take_stats()).num_views
    weights = [parameter.detach().float().cpu() for parameter in learner.regressor.parameters()]
    digest = hashlib.sha256(torch.cat([part.flatten() for part in weights]).numpy().tobytes())
    ranks.check_same("weights", digest.hexdigest())
    return Found(
        ranks.world, runner.runs, step_s, first, _means(last, ranks),
        torch.cuda.max_memory_allocated() if on_gpu else 0, drawn, runner.num_steps,
        str(rap.__file__),
    )  # fmt: skip


def _timed(
    step: Callable[[], Terms], ranks: Ranks, device: torch.device
) -> tuple[list[float], Terms]:
    """Seconds per step in several windows, after as many steps for warming up."""

    def window(num: int) -> tuple[float, Terms]:
        _finished(device)
        ranks.wait()
        start = time.perf_counter()
        for _ in range(num - 1):
            step()
        terms = step()
        _finished(device)
        taken = torch.tensor([(time.perf_counter() - start) / num], device=ranks.device)
        return float(ranks.gather(taken).max()), terms

    once = max(window(2)[0], window(2)[0] if device.type == "cuda" else 0.0)
    num = max(2, round(MIN_WINDOW_S[device.type] / once))
    found = [window(num) for _ in range(WINDOWS)]
    return [seconds for seconds, _ in found], found[-1][1]


def _finished(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _means(terms: Terms, ranks: Ranks) -> dict[str, float]:
    values = torch.stack([value.detach().float() for value in terms.values()]).to(ranks.device)
    return dict(zip(terms, ranks.mean(values).tolist(), strict=True))


def _own_batch(wanted: Wanted, scale: Scale, ranks: Ranks, device: torch.device) -> Batch:
    """A process's part of the batch of all: other photographs for each."""
    scene = workloads.scene("room", scale.room)
    whole = workloads.training_batch(scene, wanted.batch_size * ranks.world, scale, device)
    part = slice(ranks.rank * wanted.batch_size, (ranks.rank + 1) * wanted.batch_size)
    images = [each[part] for each in whole.images.chunk(3)]
    poses = [each[part] for each in whole.world_from_camera.chunk(3)]
    return Batch(torch.cat(images), torch.cat(poses), dict.fromkeys(whole.sizes, wanted.batch_size))


def _stream(wanted: Wanted, scale: Scale, ranks: Ranks, device: torch.device) -> ViewStream | None:
    """Views beside each step: each process draws as many, and all get them."""
    if not wanted.views:
        return None
    shown = clouds.shown("small", scale, device)
    camera = shown.camera.with_height(scale.image_height)
    empty = torch.zeros(NUM_ROWS, 3, camera.height, camera.width, dtype=torch.uint8)
    bank = ImageBank(empty, torch.zeros(NUM_ROWS, 4, 4), device, 2**33, pin_memory=False)
    views = ViewsConfig(
        stream_per_step=wanted.views * ranks.world, render_height=scale.render_height,
        min_coverage=0.3,
    )  # fmt: skip
    anchors = anchors_of(shown.poses(NUM_ROWS).to(device), views.bounds_margin_m)
    ready = prepared(shown.gaussians, shown.eye.to(device), views)
    return ViewStream(
        bank, ready, camera, anchors, views, share=ranks.rows, gather=ranks.gather_bank
    )


if __name__ == "__main__":
    end_with_parent()
    torch.set_num_threads(1)
    work(Wanted(**json.loads(sys.argv[1])))
