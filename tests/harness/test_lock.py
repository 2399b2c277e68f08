"""Two comparisons at once would each measure the other."""

import pytest

from benchmarks.harness import lock
from benchmarks.harness.environments import SetupError
from benchmarks.harness.lock import NAME, alone


def test_second_comparison_is_refused_while_the_first_runs() -> None:
    """It names the process that holds the lock."""
    with alone():
        pid = (lock.home() / NAME).read_text(encoding="ascii").strip()
        with pytest.raises(SetupError, match=rf"process {pid},"), alone():
            pytest.fail("both hold it")


def test_lock_is_free_afterwards() -> None:
    """Also when the first one failed."""

    def fail() -> None:
        with alone():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with alone():
        pass
