"""What every benchmark starts from, whatever ran before it: device, scene, seeds, free memory."""

import gc
import importlib
from collections.abc import Iterator
from contextlib import ExitStack

import jaxtyping
import pytest
import torch

from benchmarks import workloads
from benchmarks.harness.faults import FaultError
from benchmarks.harness.memory import uncollected
from benchmarks.harness.parameters import matches
from benchmarks.harness.plugin import SUITE
from benchmarks.harness.suite import benchmark_id, is_benchmark
from benchmarks.sabotage import sabotage
from benchmarks.workloads import Scale
from rap.scene import DataError, Scene
from rap.splat.render import gsplat_available

CORE = (
    "train_step[batch_size=8,*execution=graphed,micro_batches=1,precision=bf16]",
    "infer[*execution=graphed*]",
    "appearance[by=kernel,*]",
    "backbone[*precision=bf16,variant=b0]",
    "losses[batch_size=8,term=vicreg]",
    "render[*]",
    "ssim[*]",
    "transformer[attention=sdpa,layers=6,precision=bf16,tokens=1201]",
    "views[*splat=small,switch=plain]",
)
CORE_ON_CPU = (
    *CORE,
    "infer[batch_size=64,execution=eager,precision=fp32]",
    "train_step[batch_size=8,channels_last=off,checkpointing=off,execution=eager,*precision=fp32]",
)
"""What the product is measured by, short enough to be run twenty times over: the mark `core`.

`-k core` of the commands that measure pairs. Of all benchmarks a process on an H200 takes minutes,
and a step that the host launches differs there by 10 % from call to call.
"""


@pytest.hookimpl(tryfirst=True)  # before -k chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the core of the suite."""
    core = CORE_ON_CPU if config.stash[SUITE].device == "cpu" else CORE
    for item in filter(is_benchmark, items):
        name = benchmark_id(item)
        if any(matches(pattern, name) for pattern in core):
            item.add_marker(pytest.mark.core)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Load what all share before the first benchmark: it must not count as the first one's memory.

    On the CPU one thread computes: two wait for each other whenever a neighbour takes a core.
    """
    suite = session.config.stash[SUITE]
    if session.config.option.collectonly or not any(map(is_benchmark, session.items)):
        return
    for fault in suite.faults.faults:
        if fault.kind == "code":
            _refuse_unknown(fault.name)
    device = torch.device(suite.device)
    with uncollected():
        importlib.import_module("torch._dynamo")
        if device.type == "cuda":
            gsplat_available()
    if device.type == "cpu":
        torch.set_num_threads(1)
    else:
        _fill_workspaces(device)
    try:
        workloads.scene(suite.wanted.scene, workloads.scale_for(device).room)
    except DataError as error:
        raise pytest.UsageError(f"--scene {suite.wanted.scene}: {error}") from error


def _refuse_unknown(name: str) -> None:
    try:
        sabotage(name)
    except FaultError as error:
        raise pytest.UsageError(str(error)) from error


def _fill_workspaces(device: torch.device) -> None:
    """Libraries keep workspaces for each of torch's threads, which the allocator counts as ours."""
    layer = torch.nn.Linear(64, 64, device=device)
    images = torch.zeros(64, 64, device=device)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            layer(images).sum().backward()


@pytest.fixture(scope="session")
def device(bench_device: str) -> torch.device:
    """Where the benchmarks run."""
    return torch.device(bench_device)


@pytest.fixture(scope="session")
def scale(device: torch.device) -> Scale:
    """How large their inputs are there."""
    return workloads.scale_for(device)


@pytest.fixture(scope="session")
def scene(bench_scene: str, scale: Scale) -> Scene:
    """The scene of `--scene`; the room at this scale without it."""
    return workloads.scene(bench_scene, scale.room)


@pytest.fixture(autouse=True)
def _sabotaged(request: pytest.FixtureRequest) -> Iterator[None]:
    """The faults of `rap` that BENCHMARK_FAULT injects into this benchmark; none by default."""
    faults = request.config.stash[SUITE].faults
    with ExitStack() as stack:
        for name in faults.named(benchmark_id(request.node)):
            stack.enter_context(sabotage(name))
        yield


@pytest.fixture(autouse=True)
def _alone(device: torch.device) -> Iterator[None]:
    """No benchmark leaves anything to the next; shape checks, if they are loaded, are off."""
    checked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    torch.manual_seed(workloads.SEED)
    yield
    jaxtyping.config.update("jaxtyping_disable", checked)
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
