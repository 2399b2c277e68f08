"""How far a fixed number of blocks is: which one, which benchmark, and how long it takes still."""

import time
from collections.abc import Sequence
from typing import TextIO

from benchmarks.harness.blocks import Block
from benchmarks.harness.compare import Comparison
from benchmarks.harness.statistics import median

START_OF_LINE = "\r\x1b[K"
"""Write the line of a terminal again."""
UNITS = ((5400.0, 3600.0, "h"), (90.0, 60.0, "min"))


class Countdown:
    """On a terminal one line that changes; elsewhere one a block, and the first benchmarks."""

    def __init__(self, stream: TextIO, wanted: int, budget_s: float, num_known: int = 0) -> None:
        self._stream, self._wanted = stream, wanted
        self._end = time.monotonic() + budget_s
        self._known = num_known
        self._now = ""

    def show(self, _comparison: Comparison, blocks: Sequence[Block], side: str) -> None:
        """What is known after these blocks; `side` is the arm that is being measured."""
        num = len(blocks)
        if not side and num > self._known:
            self._line(f"block {num} of {self._wanted} in {blocks[-1].seconds:.0f} s")
        elif side:
            now = f"block {num + 1} of {self._wanted}{self._left(blocks)}"
            if self._stream.isatty():
                self._stream.write(f"{START_OF_LINE}{now}")
                self._stream.flush()
            elif now.partition(",")[0] != self._now.partition(",")[0]:
                self._line(now)
            self._now = now

    def tell(self, text: str) -> None:
        """Which benchmark runs now."""
        if self._stream.isatty():
            self._stream.write(f"{START_OF_LINE}{self._now}: {text}")
            self._stream.flush()
        elif self._now.startswith(f"block {self._known + 1} "):
            self._line(f"  {text}")

    def _left(self, blocks: Sequence[Block]) -> str:
        """About how long all blocks take still, and where the budget ends before."""
        if not blocks:
            return ""
        left_s = (self._wanted - len(blocks)) * median([block.seconds for block in blocks])
        budget_s = max(0.0, self._end - time.monotonic())
        cut = f" (the budget ends in {span(budget_s)})" if budget_s < left_s else ""
        return f", about {span(left_s)} left{cut}"

    def _line(self, text: str) -> None:
        again = START_OF_LINE if self._stream.isatty() else ""
        self._stream.write(f"{again}{text}\n")
        self._stream.flush()


def span(seconds: float) -> str:
    """A time as people say it: `45 s`, `12 min`, `1.5 h`."""
    for least, unit, name in UNITS:
        if seconds >= least:
            return f"{seconds / unit:.2g} {name}"
    return f"{seconds:.0f} s"
