"""Two comparisons at once would each measure the other."""

import errno
import os
from pathlib import Path

import pytest

from benchmarks.harness import lock
from benchmarks.harness.environments import SetupError
from benchmarks.harness.lock import NAME, VARIABLE, alone


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


def test_temporary_folder_of_one_s_own_is_no_other_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """TMPDIR changes nothing where there is a /tmp; only the variable made for it does."""
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(lock.tempfile, "tempdir", None)
    assert lock.home() == lock.FIXED
    monkeypatch.setattr(lock, "FIXED", tmp_path / "none")
    assert lock.home() == tmp_path
    monkeypatch.setenv(VARIABLE, "/shared")
    assert lock.home() == Path("/shared")


class OtherUser:
    """Opens the lock as the system does for another user's file in a sticky folder."""

    def __init__(self, *, readable: bool) -> None:
        self._open, self._readable = os.open, readable

    def __call__(self, path: Path, flags: int, mode: int = 0o777) -> int:
        """Refuse to write it, or everything."""
        if flags & os.O_RDWR or not self._readable:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return self._open(path, flags, mode)


def test_file_of_another_user_is_locked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """To read it is enough; who holds it is told."""
    with alone():
        monkeypatch.setattr(lock.os, "open", OtherUser(readable=True))
        with pytest.raises(SetupError, match=f"process {os.getpid()},"), alone():
            pytest.fail("both hold it")
    with alone(), pytest.raises(SetupError), alone():
        pytest.fail("both hold it")


def test_file_that_cannot_be_read_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the file and the way out."""
    with alone():
        pass
    monkeypatch.setattr(lock.os, "open", OtherUser(readable=False))
    with pytest.raises(SetupError, match=rf"{NAME}: cannot be opened.*{VARIABLE}"), alone():
        pytest.fail("nobody knows")


def test_link_is_no_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Somebody else's link must not make us write where it points."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SetupError, match="no file to lock"), alone():
        pytest.fail("followed")
    assert not (tmp_path / "elsewhere").exists()
