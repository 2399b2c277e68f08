"""The room of the benchmarks is drawn once and then read: the same one, or it is drawn again."""

import os
import resource
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import rooms
from benchmarks.harness.subject import Subject
from rap import log
from rap.data.room import RoomSpec, make
from rap.scene import Frame, Points, Scene

SPEC = RoomSpec(num_train=2, num_test=1, width=16, height=12, num_points=20)


@cache
def small_room() -> Scene:
    """Drawn once for all tests."""
    return make(SPEC)


def same(one: object, other: object) -> bool:
    """Equal in kind and to the bit, arrays within scenes and frames included."""
    if isinstance(one, Scene | Frame | Points):
        return all(same(value, getattr(other, name)) for name, value in vars(one).items())
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.flags.writeable and np.array_equal(one, other)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> list[RoomSpec]:
    """The rooms that were drawn, each by a name of its own; truly drawn is only the first."""
    drawn: list[RoomSpec] = []

    def drawing(spec: RoomSpec) -> Scene:
        drawn.append(spec)
        return replace(small_room(), name=f"room {spec.seed}")

    monkeypatch.setattr(rooms, "make", drawing)
    return drawn


def test_room_is_drawn_once(drawings: list[RoomSpec], tmp_path: Path) -> None:
    """And read as it was drawn: names, camera, points, types and all."""
    drawn, read = (rooms.room(SPEC, tmp_path) for _ in range(2))
    assert drawings == [SPEC]
    assert drawn is not read
    assert same(read, drawn)
    assert not same(read, rooms.room(replace(SPEC, seed=1), tmp_path))


def test_other_room_or_code_is_drawn_anew(
    drawings: list[RoomSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An arm of an A/B must see what its own package draws."""
    rooms.room(SPEC, tmp_path)
    brighter = replace(SPEC, lamps_vary=False)
    rooms.room(brighter, tmp_path)
    monkeypatch.setattr(rooms, "measured_subject", lambda: Subject("here", "other sources"))
    rooms.room(SPEC, tmp_path)
    monkeypatch.setattr(torch, "__version__", "1.0")
    rooms.room(SPEC, tmp_path)
    other = tmp_path / "rooms.py"
    other.write_text("written in another way", encoding="utf-8")
    monkeypatch.setattr(rooms, "__file__", str(other))
    rooms.room(SPEC, tmp_path)
    assert drawings == [SPEC, brighter, SPEC, SPEC, SPEC]


def test_damaged_file_is_drawn_over(drawings: list[RoomSpec], tmp_path: Path) -> None:
    """A full disk must not stop the benchmarks for good."""
    whole = rooms.room(SPEC, tmp_path)
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert same(rooms.room(SPEC, tmp_path), whole)
    assert same(rooms.room(SPEC, tmp_path), whole)
    assert len(drawings) == 2


def test_folder_that_cannot_be_written_stops_nothing(
    drawings: list[RoomSpec], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As before there were files: each process draws, with a line that says why."""
    folder = tmp_path / "file"
    folder.touch()
    assert same(rooms.room(SPEC, folder), rooms.room(SPEC, folder))
    assert len(drawings) == 2
    assert capsys.readouterr().err.count("not kept") == 2


def test_full_disk_stops_nothing(
    drawings: list[RoomSpec], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was half written is removed, and never read."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        drawn = rooms.room(SPEC, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "not kept" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert same(rooms.room(SPEC, tmp_path), drawn)
    assert len(drawings) == 2


def test_two_processes_keep_the_same_room(
    drawings: list[RoomSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one has half written the other neither reads nor removes."""
    write = rooms._write

    def interrupted(scene: Scene, path: Path) -> None:
        write(scene, path)
        whole = path.read_bytes()
        path.write_bytes(whole[:1000])
        with monkeypatch.context() as other:
            other.setattr(log.os, "getpid", os.getppid)
            other.setattr(rooms, "_write", write)
            assert same(rooms.room(SPEC, tmp_path), scene)
        with path.open("ab") as file:
            file.write(whole[1000:])

    monkeypatch.setattr(rooms, "_write", interrupted)
    drawn = rooms.room(SPEC, tmp_path)
    assert same(rooms.room(SPEC, tmp_path), drawn)
    assert len(drawings) == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_file_that_is_removed_while_it_is_read_is_drawn_again(
    drawings: list[RoomSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is opened twice, and another process may remove it between the two."""
    rooms.room(SPEC, tmp_path)
    map_file = torch.UntypedStorage.from_file

    def removed(filename: str, *given: object, **named: object) -> object:
        Path(filename).unlink()
        return map_file(filename, *given, **named)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", removed)
    rooms.room(SPEC, tmp_path)
    assert len(drawings) == 2


@pytest.mark.usefixtures("drawings")
def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    """Such a file is as large as a room, and nobody would ever read it."""
    left = tmp_path / f".room.safetensors.{2**30}.tmp"
    left.touch()
    rooms.room(SPEC, tmp_path)
    assert not left.exists()


@pytest.mark.usefixtures("drawings")
def test_rooms_of_former_code_are_removed(tmp_path: Path) -> None:
    """Every change of the package makes a file of 22 MB on a GPU machine."""
    for age in range(rooms.NUM_KEPT + 2):
        old = tmp_path / f"{age}.safetensors"
        old.touch()
        os.utime(old, (1e9 - age, 1e9 - age))
    rooms.room(SPEC, tmp_path)
    kept = {file.name for file in tmp_path.iterdir()}
    assert len(kept) == rooms.NUM_KEPT
    assert {f"{age}.safetensors" for age in range(rooms.NUM_KEPT - 1)} < kept
