"""Weak scaling: one process for each GPU, each with as much to do as a single one."""

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rap
from benchmarks.harness import Measure, axis, combine
from benchmarks.scaling_rank import Found, Wanted
from rap.config import Execution

BATCH_SIZE = {"cuda": 64, "cpu": 2}
"""Photographs per process and step; a step has as many renderings and views."""
ROOT = Path(__file__).parents[1]
TIMEOUT_S = 570


def by_request(*_: object) -> bool:
    """Processes start, compile and find each other anew for every case: with `--full` only."""
    return False


@pytest.mark.parametrize(
    ("num_gpus", "execution", "views"),
    combine(axis([2], cuda=[1, 4]), axis(["eager"], cuda=["graphed"]), axis([0], cuda=[8]),
            default=by_request),
)  # fmt: skip
def bench_scaling(
    measure: Measure, tmp_path: Path, device: torch.device, num_gpus: int, execution: Execution,
    views: int,
) -> None:  # fmt: skip
    """Photographs per second and GPU; gradients averaged, views drawn by each and given to all.

    On a CPU two processes over gloo show that it works, not how fast.
    """
    there = torch.cuda.device_count()
    if device.type == "cuda" and there < max(2, num_gpus):
        pytest.skip(f"needs {max(2, num_gpus)} GPUs, here is {there}")
    batch_size = BATCH_SIZE[device.type]
    wanted = Wanted(device.type, batch_size, execution, views, str(tmp_path / "found.json"))

    result = measure(lambda: side_by_side(num_gpus, wanted), rounds=1)

    found = result.value
    result.check(found.world == num_gpus, f"{found.world} processes instead of {num_gpus}")
    result.check(found.source == rap.__file__, f"{found.source} was measured")
    result.check(found.runs == execution, f"steps ran {found.runs}")
    terms = [*found.first.values(), *found.last.values()]
    result.check(len(terms) == 10, f"{len(terms) // 2} terms")
    result.check(all(map(math.isfinite, terms)), f"a loss is not finite: {terms}")
    result.check(found.last["pose"] < found.first["pose"], "no step lowers the pose loss")
    expected = views * num_gpus * found.steps
    result.check(found.drawn == expected, f"{found.drawn} views were drawn, not {expected}")
    step_s = statistics.median(found.step_s)
    result.metric("step_s", step_s)
    result.metric("photographs_per_s_per_gpu", batch_size / step_s)
    result.metric("rank0_peak_bytes", found.peak_gpu_bytes)


def side_by_side(num: int, wanted: Wanted) -> Found:
    """What so many processes found; raises if one failed, or if they hold other weights."""
    logs = Path(wanted.out).with_name("ranks")  # without it a folder stays among temporary files
    launcher = [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num),
        "--log-dir", str(logs),
    ]  # fmt: skip
    ranks = ["-m", "benchmarks.scaling_rank", json.dumps(vars(wanted))]
    package = Path(rap.__file__).parents[1]
    paths = os.pathsep.join(filter(None, [str(ROOT), str(package), os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, *launcher, *ranks], cwd=package, env=environment, text=True,
        capture_output=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return Found(**json.loads(Path(wanted.out).read_text(encoding="utf-8")))
