"""Progress where there is no terminal, and files that are whole or absent."""

import contextlib
import os
from pathlib import Path

import pytest

from rap import log


def test_progress_without_a_terminal_prints_lines_with_a_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Long work shows that it is alive in a log file, too."""
    lines: list[str] = []
    monkeypatch.setattr(log, "info", lines.append)
    monkeypatch.setattr(log, "LINE_EVERY_S", 0.0)
    with log.progress("counting", 4, "items") as tick:
        tick(1, loss=0.5)
        tick(3)
    assert [line.split(",")[0] for line in lines] == ["counting: 1 of 4", "counting: 4 of 4"]
    assert "items/s  loss 0.5" in lines[0]


def test_a_replaced_file_is_whole_or_as_before(tmp_path: Path) -> None:
    """An error while writing leaves the old file and no temporary one."""
    path = tmp_path / "result.json"
    with log.replacing(path) as temporary:
        temporary.write_text("old")
    with contextlib.suppress(OSError), log.replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    """Of this number and of those that no process has; not of one that runs, and nothing else."""
    stale = [tmp_path / f".state.pt.{pid}.tmp" for pid in (2**30, os.getpid(), 10**30)]
    kept = [tmp_path / name for name in (".state.pt.1.tmp", "a.1.tmp", ".x.tmp")]
    for path in stale + kept:
        path.touch()
    folder = tmp_path / f".report.{2**30}.tmp"
    folder.mkdir()
    (folder / "metrics.json").touch()
    log.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    log.sweep(tmp_path / "nowhere")


def test_a_file_takes_a_table_of_any_width(capsys: pytest.CaptureFixture[str]) -> None:
    """Names are not cut to a terminal's 80 columns where there is no terminal."""
    cells = [f"a-rather-long-cell-{index}" for index in range(12)]
    log.table("title", [f"column {index}" for index in range(12)], [cells])
    found = capsys.readouterr().err
    assert all(cell in found for cell in cells)
    assert "…" not in found
