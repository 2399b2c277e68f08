"""How far a calibration is: told on a terminal in one line, elsewhere a line for each block."""

from dataclasses import replace
from io import StringIO

import pytest

from benchmarks.harness import countdown
from benchmarks.harness.blocks import Block
from benchmarks.harness.compare import Comparison
from benchmarks.harness.countdown import Countdown, span
from benchmarks.harness.verdict import Code
from tests.harness.pairs_toys import timed

NOTHING = Comparison(Code.PASS, (), None, 0)
BLOCKS = [replace(block, seconds=20.0) for block in timed([1.0] * 4)]


class Terminal(StringIO):
    """A stream on which lines can be written again."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def played(shown: Countdown, blocks: list[Block]) -> None:
    """Two more blocks of two benchmarks."""
    for num in range(len(blocks) - 2, len(blocks)):
        for side in ("base", "head"):
            shown.show(NOTHING, blocks[:num], side)
            for name in ("a", "b"):
                shown.tell(f"{side} 1.0 s: {name}")
        shown.show(NOTHING, blocks[: num + 1], "")


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes."""
    monkeypatch.setattr(countdown.time, "monotonic", lambda: 0.0)


def test_log_has_a_line_for_each_block_and_first_benchmark() -> None:
    """Block n of m, what runs, and the time left."""
    log = StringIO()
    played(Countdown(log, 30, 1e6), BLOCKS[:2])
    assert log.getvalue().splitlines() == [
        "block 1 of 30", "  base 1.0 s: a", "  base 1.0 s: b", "  head 1.0 s: a", "  head 1.0 s: b",
        "block 1 of 30 in 20 s", "block 2 of 30, about 9.7 min left", "block 2 of 30 in 20 s",
    ]  # fmt: skip


def test_resumed_log_goes_on() -> None:
    """Its first benchmarks are told, too; the budget may end before."""
    log = StringIO()
    played(Countdown(log, 30, 60.0, 2), BLOCKS)
    lines = log.getvalue().splitlines()
    assert lines[0] == "block 3 of 30, about 9.3 min left (the budget ends in 60 s)"
    assert lines[1] == "  base 1.0 s: a"
    assert len(lines) == 8


def test_terminal_writes_one_line_again() -> None:
    """With the benchmark that runs, in every block; finished blocks stay."""
    screen = Terminal()
    played(Countdown(screen, 30, 1e6), BLOCKS[:2])
    last = screen.getvalue().split("\r\x1b[K")
    assert "block 2 of 30, about 9.7 min left: head 1.0 s: b" in last
    assert screen.getvalue().count("\n") == 2
    assert last[-1] == "block 2 of 30 in 20 s\n"


@pytest.mark.parametrize(
    ("seconds", "said"), [(45.2, "45 s"), (89.0, "89 s"), (600.0, "10 min"), (7200.0, "2 h")]
)
def test_times_are_said_as_people_do(seconds: float, said: str) -> None:
    """In the unit that needs two digits."""
    assert span(seconds) == said
