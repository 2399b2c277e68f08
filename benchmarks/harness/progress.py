"""Which benchmark a fresh process is at: it tells in its log, and whoever started it reads on.

So a run that is cut off has told where its time went, and the log that stays tells it, too.
"""

import os
import time
from collections.abc import Callable

MARK = "@ "
"""Start of the lines of a log that tell what runs now."""
STARTED_S = time.monotonic()
"""About when this process began: it loads this module for its options."""
Tell = Callable[[str], object]


def now(name: str) -> str:
    """The line that a process writes as it begins something."""
    return f"{MARK}{time.monotonic() - STARTED_S:.1f} s: {name}"


class Follower:
    """Reads a growing log, and tells what its process tells."""

    def __init__(self, log: int, tell: Tell) -> None:
        self._log, self._tell = log, tell
        self._position, self._rest = 0, b""

    def look(self) -> None:
        """Tell what was added since the last look, line by whole line."""
        # not `read`: the position of the file is the process's, which writes there
        added = os.pread(self._log, 1 << 20, self._position)
        self._position += len(added)
        *lines, self._rest = (self._rest + added).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            if text.startswith(MARK):
                self._tell(text.removeprefix(MARK))
