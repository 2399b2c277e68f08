"""The quick look at the poses with which fitting and training begin."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import rap
from rap import cli, geometry
from rap.camera import Camera
from rap.data import check, conventions, load
from rap.data.images import decode
from rap.data.room_files import write_scene
from rap.scene import DataError, Frame, Scene
from tests.data.folders import box_scene


def wrong(scene: Scene, parts: Sequence[str] = ("train", "test")) -> Scene:
    """The scene with some splits' poses inverted."""

    def inverted(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
        return tuple(
            replace(f, world_from_camera=geometry.invert(f.world_from_camera)) for f in frames
        )

    train = inverted(scene.train) if "train" in parts else scene.train
    test = inverted(scene.test) if "test" in parts else scene.test
    return replace(scene, train=train, test=test)


@pytest.mark.parametrize("kind", ["points", "depth"])
@pytest.mark.parametrize("parts", [("train", "test"), ("train",), ("test",)])
def test_wrong_poses_are_one_warning(
    kind: str, parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the reading and the command that says more, with a quoted name."""
    scene = box_scene(16, 8, 80, 60)
    scene = scene if kind == "points" else replace(scene, points=None)
    check.warn_of_wrong_poses(scene, "my room")
    assert capsys.readouterr().err == ""
    check.warn_of_wrong_poses(wrong(scene, parts), "my room")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: painted box: judged by {kind}, the ")
    assert "(inverted)" in line
    assert line.endswith("`rap data check 'my room'` says more")


def test_the_quick_look_reads_a_handful_of_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: a training's start stays as fast as it is."""
    read: list[int] = []

    def counted(frames: Sequence[Frame], camera: Camera) -> object:
        read.append(len(frames))
        return decode(frames, camera)

    monkeypatch.setattr(conventions, "decode", counted)
    check.warn_of_wrong_poses(box_scene(60, 20, 32, 24), "x")
    assert len(read) == 2
    assert max(read) <= 8


def test_broken_files_do_not_end_the_quick_look(tmp_path: Path) -> None:
    """What comes after it names the broken file, if it needs that file at all."""
    write_scene(box_scene(6, 2, 32, 24), tmp_path / "scene")
    scene = load(tmp_path / "scene")
    for path in (tmp_path / "scene").glob("*/*.png"):
        path.write_bytes(path.read_bytes()[:60])
    check.warn_of_wrong_poses(scene, "scene")
    check.warn_of_wrong_poses(replace(scene, points=None), "scene")


@pytest.mark.parametrize(
    ("name", "words"), [("fit", ["-o", "splat.ply"]), ("train", ["-o", "run", "--device", "cpu"])]
)
def test_fitting_and_training_begin_with_it(
    name: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The warning comes before the work, which goes on."""
    write_scene(wrong(box_scene(16, 4, 80, 60)), tmp_path / "scene")
    monkeypatch.chdir(tmp_path)

    def stop(*_: object, **__: object) -> None:
        raise DataError("the work began")

    monkeypatch.setattr(rap, name, stop)
    assert cli.main([name, "scene", *words]) == 2
    shown = capfd.readouterr().err
    warning, work = shown.index("`rap data check scene` says more"), shown.index("the work began")
    assert warning < work
