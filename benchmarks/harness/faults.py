"""Injected faults, so that the gate can be seen to work. Off unless BENCHMARK_FAULT is set.

    BENCHMARK_FAULT="slow:30@train_step*, memory:20, answer@render, missing:views"

`slow:K` spins for K % of every call, on the GPU where the benchmark runs there; `sleep:K` sleeps;
`memory:K` holds K % of the benchmark's peak more; `answer` corrupts what the step returned;
`missing:GLOB` drops benchmarks from the run; `code:NAME` is one of the suite's own, which changes
the code under test (see `benchmarks/sabotage.py`). `@GLOB` limits a fault to some benchmarks.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks.harness.parameters import matches

T = TypeVar("T")

VARIABLE = "BENCHMARK_FAULT"
WITH_PERCENT = ("slow", "sleep", "memory")
KINDS = (*WITH_PERCENT, "answer", "missing", "code")
ACCEPTED = (
    "slow:K, sleep:K, memory:K (K in percent), answer, missing:GLOB, code:NAME; each with @GLOB"
)


class FaultError(ValueError):
    """A fault that cannot be injected: running without it would prove nothing."""


@dataclass(frozen=True)
class Fault:
    """One fault, and the benchmarks (by bare name or id, `*` and `?`) that it strikes."""

    kind: str
    percent: float
    target: str
    name: str = ""
    """Of a fault that the suite itself knows how to inject."""

    def strikes(self, benchmark_id: str) -> bool:
        """Whether the fault is meant for this benchmark."""
        return matches(self.target, benchmark_id)


@dataclass(frozen=True)
class Faults:
    """Every fault of this process, with the text that asked for them."""

    text: str = ""
    faults: tuple[Fault, ...] = ()

    def percent(self, kind: str, benchmark_id: str) -> float:
        """Strength of a fault for a benchmark, 0 where there is none."""
        return sum(f.percent for f in self.faults if f.kind == kind and f.strikes(benchmark_id))

    def active(self, kind: str, benchmark_id: str) -> bool:
        """Whether a fault without a strength strikes a benchmark."""
        return any(f.kind == kind and f.strikes(benchmark_id) for f in self.faults)

    def named(self, benchmark_id: str) -> list[str]:
        """The suite's own faults that strike a benchmark."""
        return [f.name for f in self.faults if f.kind == "code" and f.strikes(benchmark_id)]


def from_environment() -> Faults:
    """The faults that BENCHMARK_FAULT asks for; FaultError for what is not understood."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return Faults()
    return Faults(text, tuple(_parse(part.strip()) for part in text.split(",")))


def _parse(part: str) -> Fault:
    call, _, target = part.partition("@")
    kind, _, value = call.partition(":")
    if kind not in KINDS or (kind == "answer") == bool(value):
        raise FaultError(f"{VARIABLE}: {part!r} is no fault; accepted: {ACCEPTED}")
    if kind == "missing":
        return Fault(kind, 0.0, value)
    if kind == "answer":
        return Fault(kind, 0.0, target or "*")
    if kind == "code":
        return Fault(kind, 0.0, target or "*", value)
    try:
        percent = float(value)
    except ValueError as error:
        raise FaultError(f"{VARIABLE}: {value!r} in {part!r} is not a number") from error
    return Fault(kind, percent, target or "*")


def slowed(
    step: Callable[[], T], faults: Faults, benchmark_id: str, device: str
) -> Callable[[], T]:
    """`step` made slower by the faults that strike this benchmark; `step` itself without any."""
    spin = faults.percent("slow", benchmark_id) / 100
    sleep = faults.percent("sleep", benchmark_id) / 100
    if spin == 0 and sleep == 0:
        return step
    on_gpu = device == "cuda" and spin > 0
    slow_gpu = _slow_on_gpu(step, spin) if on_gpu else step

    def slow() -> T:
        start, cpu = time.perf_counter(), time.process_time()
        value = slow_gpu()
        elapsed = time.perf_counter() - start
        if not on_gpu:
            # Of threads that work side by side, only the wall time can be lengthened by a share.
            _spin_host(spin * min(elapsed, time.process_time() - cpu))
        if sleep > 0:
            time.sleep(sleep * elapsed)
        return value

    return slow


def _spin_host(seconds: float) -> None:
    """Burn processor time, which neighbours cannot shorten."""
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


_TRIALS = 12
"""An idle GPU needs 50 ms of work to reach the clock that it then keeps."""
_MEASURED = 2
"""Calls of a step whose span is taken, the first two: a trial of its own would be a step more."""


def _slow_on_gpu(step: Callable[[], T], share: float) -> Callable[[], T]:
    """After each step a kernel that waits for `share` of the step's own GPU span.

    The first calls, which warm up, are measured and waited for; later ones are not.
    """
    import torch

    trial_cycles = 10_000_000
    trial_ms = [_span_ms(lambda: torch.cuda._sleep(trial_cycles))[1] for _ in range(_TRIALS)][-1]
    cycles: list[int] = []

    def slow() -> T:
        if len(cycles) < _MEASURED:
            value, step_ms = _span_ms(step)
            cycles.append(int(share * step_ms / trial_ms * trial_cycles))
        else:
            value = step()
        torch.cuda._sleep(cycles[-1])
        return value

    return slow


def _span_ms(work: Callable[[], T]) -> tuple[T, float]:
    import torch

    begin = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    begin.record()
    value = work()
    end.record()
    torch.cuda.synchronize()
    return value, begin.elapsed_time(end)


def ballast(num_bytes: int, device: str) -> object:
    """Memory that is really taken, every page written."""
    if device == "cuda":
        import torch

        return torch.ones(num_bytes, dtype=torch.uint8, device="cuda")
    return bytearray(b"\x01") * num_bytes


def corrupted(value: Any) -> Any:  # noqa: ANN401 (whatever a step returns)
    """The same kind of value with wrong numbers in it, containers included."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float) or hasattr(value, "dtype"):
        return _wrong_numbers(value)
    if isinstance(value, dict):
        return {key: corrupted(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(corrupted, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{n: corrupted(getattr(value, n)) for n in names})
    return value


def _wrong_numbers(value: Any) -> Any:  # noqa: ANN401 (a number, an array or a tensor)
    return ~value if str(getattr(value, "dtype", "")).endswith("bool") else value * 3 + 1
