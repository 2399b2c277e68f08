"""A step as a CUDA graph: its kernels are timed, not the host that launches them.

Launching takes a slow host longer than a GPU takes for the kernels, and differs by 10 to 25 % from
call to call (one H200, 22 ms for 2 ms of kernels). In training the same kernels are replayed, too.
"""

from collections.abc import Callable
from typing import TypeVar

from benchmarks.harness.clock import cuda_clock
from benchmarks.harness.statistics import median

T = TypeVar("T")

NUM_TRIALS = 3
"""Calls before a recording: libraries choose kernels and take workspaces, autograd sets up."""
NUM_LAUNCHED = 5
"""Rounds of the step as it is."""


def launched_s(step: Callable[[], object]) -> float:
    """Wall time of the step as it is, launches included: what a recording hides."""
    rounds = [cuda_clock(step, 1)[1].wall_s for _ in range(NUM_TRIALS + NUM_LAUNCHED)]
    return median(rounds[NUM_TRIALS:])


def recorded(step: Callable[[], T]) -> Callable[[], T]:
    """Record `step` on the current CUDA device; what is returned replays it.

    Every replay writes into the same results. RuntimeError where a step waits for the host.
    """
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(NUM_TRIALS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = step()

    def replay() -> T:
        graph.replay()
        return value

    return replay
