"""Evidence that a benchmark took the path that its name says: counted, not assumed."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass
class Calls:
    """How often a function was called."""

    num: int = 0


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: ModuleType | type, name: str) -> Calls:
    """Count the calls of a module's function or of a method for the rest of the benchmark."""
    calls, original = Calls(), getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (whatever it takes and returns)
        calls.num += 1
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def pool_sizes(monkeypatch: pytest.MonkeyPatch, owner: ModuleType) -> list[int]:
    """The number of workers of each thread pool that a module opens from now on."""
    sizes: list[int] = []
    original: Callable[[int], object] = owner.ThreadPoolExecutor

    def opened(num: int) -> object:
        sizes.append(num)
        return original(num)

    monkeypatch.setattr(owner, "ThreadPoolExecutor", opened)
    return sizes


class Operations(TorchDispatchMode):
    """Counts torch's operations in a `with` block whose name holds `part`, backward ones aside.

    What torch composes of others (attention without a fused kernel) is counted as those.
    """

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part
        self.num = 0

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run an operation, and count it if it is asked for."""
        self.num += self.part in func.name() and "backward" not in func.name()
        return func(*args, **(kwargs or {}))


class Crossings(TorchDispatchMode):
    """Bytes that torch copies between host and device in a `with` block, by this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the operation returns)
        """Run an operation, and add up what it moves from one kind of device to another."""
        found = func(*args, **(kwargs or {}))
        if func.name() in ("aten::_to_copy", "aten::copy_"):
            source = args[func.name() == "aten::copy_"]
            if source.device.type != found.device.type:
                self.num_bytes += source.nbytes
        return found


@dataclass(frozen=True)
class Arithmetic:
    """What a layer computes in, and how its output lies in memory."""

    dtype: torch.dtype
    tf32: bool
    channels_last: bool = False


ARITHMETIC = {
    "fp32": Arithmetic(torch.float32, tf32=False),
    "tf32": Arithmetic(torch.float32, tf32=True),
    "bf16": Arithmetic(torch.bfloat16, tf32=False),
    "fp16": Arithmetic(torch.float16, tf32=False),
}


def first_arithmetic(module: nn.Module) -> list[Arithmetic]:
    """Of a module's first call, once there was one; then the hook takes itself off."""
    seen: list[Arithmetic] = []

    def hook(_module: nn.Module, _inputs: object, output: list[torch.Tensor]) -> None:
        last = output[0].is_contiguous(memory_format=torch.channels_last)
        seen.append(Arithmetic(output[0].dtype, torch.backends.cudnn.allow_tf32, last))
        handle.remove()

    handle = module.register_forward_hook(hook)
    return seen


@dataclass(frozen=True)
class Compilation:
    """What torch.compile did, by its own counters."""

    graphs: int
    breaks: int


NOT_COMPILED = Compilation(graphs=0, breaks=0)
ONE_GRAPH = Compilation(graphs=1, breaks=0)


@contextmanager
def compiler(compiled: bool) -> Iterator[Callable[[], Compilation]]:
    """A compiler that has seen nothing yet and forgets it all afterwards.

    Its own warnings (deprecations inside torch, advice to allow TF32) are not about our code. Code
    under the shape checks of tests/conftest.py cannot be compiled as one graph: that is skipped.
    """
    checked = any(type(finder).__module__.startswith("jaxtyping") for finder in sys.meta_path)
    if compiled and checked:
        pytest.skip("shape checks are loaded and break the graph: run `pytest benchmarks` alone")
    counters = torch._dynamo.utils.counters

    def so_far() -> Compilation:
        breaks = sum(counters["graph_break"].values())
        return Compilation(counters["stats"]["unique_graphs"], breaks)

    with warnings.catch_warnings():
        # eager code needs it, too: forgetting imports the compiler
        warnings.filterwarnings("ignore", module=r"(torch|triton)\b")
        torch._dynamo.reset()
        counters.clear()
        yield so_far
    torch._dynamo.reset()
