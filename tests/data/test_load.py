"""`load`: the format is recognised, and what is no scene is said to be none."""

import re
from pathlib import Path

import pytest

from rap.data import load, room
from rap.data.room import RoomSpec
from rap.scene import DataError
from tests.data import folders

WRITERS = {
    "7-Scenes folder": folders.write_seven_scenes,
    "Cambridge folder": folders.write_cambridge_published,
    "COLMAP model": folders.write_colmap,
    "transforms file": folders.write_transforms,
}


@pytest.mark.parametrize("source", WRITERS)
def test_every_format_is_recognised(tmp_path: Path, source: str) -> None:
    """A folder in each format is read by the reader of that format, and says so."""
    WRITERS[source](tmp_path / "box")
    scene = load(tmp_path / "box")
    assert scene.name == "box"
    assert scene.source.startswith(f"{source} {tmp_path}/box")


def test_a_folder_of_two_formats_says_which_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A COLMAP model beside transforms.json may hold other cameras; the format may be named."""
    folders.write_transforms(tmp_path / "box")
    folders.write_colmap(tmp_path / "box")
    assert load(str(tmp_path / "box")).source.startswith("COLMAP")
    said = " ".join(capsys.readouterr().err.split())
    assert "read as colmap; name the format to read it as transforms" in said
    assert load(tmp_path / "box", format="transforms").source.startswith("transforms")


def test_seven_scenes_with_a_sparse_model_needs_no_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model holds the same cameras, and can still be asked for by name."""
    folders.write_seven_scenes(tmp_path / "box")
    assert load(tmp_path / "box").source.startswith("7-Scenes")
    assert "read as" not in capsys.readouterr().err
    assert load(tmp_path / "box", format="colmap").source.startswith("COLMAP")


def test_the_word_room_is_the_procedural_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder is needed for it, and it is the room of the default specification."""
    asked = []
    monkeypatch.setattr(room, "make", lambda spec: asked.append(spec) or folders.small_scene())
    assert load("room") is folders.small_scene()
    assert asked == [RoomSpec()]


def test_what_is_no_scene_is_refused(tmp_path: Path) -> None:
    """Missing folders, files, empty folders and unknown formats."""
    (tmp_path / "a.txt").touch()
    cases = [
        ((tmp_path / "gone", None), "gone: does not exist; give a scene's folder"),
        ((tmp_path / "a.txt", None), "a.txt: is a file; give a scene's folder"),
        ((tmp_path, None), f"{tmp_path}: no known scene format; expected TrainSplit.txt"),
        ((tmp_path, "nvm"), "format 'nvm' is unknown; accepted are seven_scenes, cambridge,"),
    ]
    for (path, name), expected in cases:
        with pytest.raises(DataError, match=re.escape(expected)):
            load(path, name)
