"""The table of an A/B while it runs: intervals that shrink, and what each line could still find."""

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmarks.harness.abreport import HEADER, between, rows
from benchmarks.harness.blocks import Block
from benchmarks.harness.compare import Comparison


class Display:
    """A live table on a terminal; elsewhere one line per block."""

    def __init__(self, stream: TextIO, title: str, num_known: int = 0) -> None:
        self._console = Console(file=stream)
        self._title = title
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._known = self._told = num_known
        self._table_now: Table | None = None
        if self._console.is_terminal:
            self._live.start()

    def show(self, comparison: Comparison, blocks: Sequence[Block], side: str) -> None:
        """What is known after these blocks; `side` is the arm that is being measured."""
        if self._console.is_terminal:
            self._table_now = self._table(comparison, blocks, side)
            self._live.update(self._table_now, refresh=True)
        elif len(blocks) > self._told:
            self._told = len(blocks)
            text = self._line(comparison, blocks[-1])
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def tell(self, text: str) -> None:
        """Which benchmark runs now: below the live table, elsewhere a line in the first block."""
        if self._table_now is not None:
            self._table_now.caption = Text(text)
            self._live.update(self._table_now, refresh=True)
        elif not self._console.is_terminal and self._told == self._known:
            self._console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the live table away; the report comes instead."""
        self._live.stop()

    def _table(self, comparison: Comparison, blocks: Sequence[Block], side: str) -> Table:
        # As Text: to rich, the brackets of an id would be markup.
        title = f"{self._title}, block {len(blocks) + 1}{side and ': '}{side}"
        table = Table(title=Text(title))
        for number, name in enumerate(HEADER):
            outer = number in (0, len(HEADER) - 1)
            table.add_column(name, justify="left" if outer else "right", no_wrap=outer)
        for row in rows(comparison, running=True):
            table.add_row(*map(Text, row.cells), style=row.colour or None)
        return table

    def _line(self, comparison: Comparison, block: Block) -> str:
        timed = {
            f"{entry.finding.id} {entry.finding.metric}": entry.pairs
            for entry in comparison.entries
            if entry.pairs is not None and entry.pairs.num_blocks > 0
        }
        pending = len(comparison.request.ids or ()) if comparison.request else 0
        shown = ""
        if timed:
            name = max(timed, key=lambda name: timed[name].effect)
            shown = f"; slowest {name} {timed[name].effect:+.1%} ({between(timed[name])})"
        again = f", try {block.attempt + 1}" if block.attempt else ""
        order = "base, head" if block.first == "base" else "head, base"
        return (
            f"block {block.index + 1}{again} ({order}) in {block.seconds:.0f} s: "
            f"{len(timed)} times, {pending} benchmarks not decided{shown}"
        )
