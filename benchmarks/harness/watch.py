"""What NVML says while a benchmark works: an idle GPU is neither throttled nor at its clock.

Looks are taken while work of an extra, untimed round is queued, on the thread that queued it: a
look takes about a millisecond of the host, which no timed round may pay, and a thread beside the
rounds would take Python's lock from the one that launches kernels. Only work that runs once, for
seconds, leaves no other way than such a thread, ten times a second.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.harness.gpu import Gpu, Sample, facts, held_back, mean_power, why_invalid

PERIOD_S = 0.1


class Watch:
    """The looks at one GPU during one benchmark."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._looks: list[Sample] = []
        """Under load."""
        self._around: list[Sample] = []
        """Before and after work that is called only once."""
        self._stop = threading.Event()

    def look(self) -> None:
        """Look now; the caller has queued work."""
        self._looks.append(self._gpu.sample())

    @contextmanager
    def through(self) -> Iterator[None]:
        """Look from a thread until the block ends: for work that is called only once.

        Other processes are looked for before and after it: such work may start its own.
        """
        self._around.append(self._gpu.sample())
        thread = threading.Thread(target=self._look_on, name="nvml", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            self._around.append(self._gpu.sample())

    def _look_on(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._looks.append(self._gpu.sample(with_processes=False))

    def facts(self) -> dict[str, float]:
        """Clocks, power and temperature under load, and the driver's count of our memory."""
        looks = self._looks or self._around[-1:]
        ends = self._around or self._looks
        power = mean_power(ends[0], ends[-1]) if ends else {}
        return {**facts([*self._around, *self._looks]), **facts(looks), **power}

    def why_invalid(self) -> tuple[str, ...]:
        """Reasons why numbers taken meanwhile are invalid rather than slow."""
        return tuple(why_invalid(self._gpu, [*self._around, *self._looks]))

    def held_back(self) -> str:
        """Why the clocks were not at their top, in words; empty where they were or only idle."""
        return held_back([*self._around, *self._looks])
