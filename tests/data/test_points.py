"""Where Gaussians start: surface points, back-projected depth, or a clear refusal."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rap.data.points import initial_points, with_depth_points
from rap.data.room import RoomSpec, make
from rap.geometry import invert, transform
from rap.scene import DataError, Points, Scene


@pytest.fixture(scope="module")
def room() -> Scene:
    """A small room with constant light and more points than any test asks for."""
    return make(RoomSpec(num_train=6, num_test=1, width=64, height=48, lamps_vary=False))


def seeded() -> torch.Generator:
    """A generator in a known state."""
    return torch.Generator().manual_seed(5)


def rows(points: Points) -> set[tuple[float, ...]]:
    """Each point with its colour."""
    return {(*xyz, *rgb) for xyz, rgb in zip(points.xyz.tolist(), points.rgb.tolist(), strict=True)}


def test_points_of_the_scene_are_taken_as_they_are(room: Scene) -> None:
    """With no more points than asked for, all are returned in their order."""
    assert room.points is not None
    points = initial_points(room, len(room.points.xyz), seeded())
    assert torch.equal(points.xyz, room.points.xyz)
    assert torch.equal(points.rgb, room.points.rgb)


def test_points_in_surplus_are_drawn_without_repetition(room: Scene) -> None:
    """A subset keeps colours with their points, holds none twice, and follows the generator."""
    assert room.points is not None
    points = initial_points(room, 300, seeded())
    assert len(rows(points)) == 300
    assert rows(points) <= rows(room.points)
    assert torch.equal(points.xyz, initial_points(room, 300, seeded()).xyz)
    other = initial_points(room, 300, torch.Generator().manual_seed(6))
    assert not torch.equal(points.xyz, other.xyz)


def test_points_from_depth_lie_on_the_surfaces_in_their_colours(room: Scene) -> None:
    """Each back-projected point falls on its pixel again: same depth, same colour."""
    points = initial_points(replace(room, points=None), 500, seeded())
    assert len(points.xyz) == 500
    explained = torch.zeros(500, dtype=torch.bool)
    for frame in room.train:
        local = transform(invert(frame.world_from_camera), points.xyz.double())
        pixel = room.camera.project(local)
        inside = room.camera.contains(pixel) & (local[:, 2] > 0)
        column, row = pixel[inside].long().unbind(-1)
        depth = torch.from_numpy(np.asarray(frame.depth))[row, column]
        colour = torch.from_numpy(np.asarray(frame.image))[row, column]
        same = (depth - local[inside, 2]).abs() < 1e-4
        explained[inside] |= same & (colour == points.rgb[inside]).all(1)
    assert explained.all()


def test_points_from_depth_come_from_all_frames(room: Scene) -> None:
    """Frames share the points evenly: a sixth of the points are pixels of each of six."""
    points = initial_points(replace(room, points=None), 600, seeded())
    for frame in room.train:
        alone = replace(room, points=None, train=(frame,))
        assert len(rows(points) & rows(initial_points(alone, 64 * 48, seeded()))) == 100


def test_points_from_depth_files_skip_unknown_pixels(room: Scene, tmp_path: Path) -> None:
    """16-bit millimetres are read as metres, and pixels of depth 0 give no points."""
    millimetres = np.zeros((48, 64), dtype=np.uint16)
    millimetres[10, 20:25] = 1500
    Image.fromarray(millimetres).save(tmp_path / "depth.png")
    frame = replace(room.train[0], depth=tmp_path / "depth.png")
    points = initial_points(replace(room, points=None, train=(frame,)), 100, seeded())
    assert len(points.xyz) == 5
    local = transform(invert(frame.world_from_camera), points.xyz.double())
    assert torch.allclose(local[:, 2], torch.tensor(1.5).double(), atol=1e-6)


def test_points_from_depth_of_another_size_use_its_own_pixels(room: Scene, tmp_path: Path) -> None:
    """A depth map at half the image's size back-projects with a resized camera."""
    frame = room.train[0]
    Image.fromarray(np.full((24, 32), 2000, dtype=np.uint16)).save(tmp_path / "depth.png")
    scene = replace(room, points=None, train=(replace(frame, depth=tmp_path / "depth.png"),))
    points = initial_points(scene, 24 * 32, seeded())
    pixel = room.camera.project(transform(invert(frame.world_from_camera), points.xyz.double()))
    assert pixel.amin(0).tolist() == pytest.approx([1.0, 1.0], abs=1e-3)
    assert pixel.amax(0).tolist() == pytest.approx([63.0, 47.0], abs=1e-3)


def test_points_need_surfaces_or_depth(room: Scene) -> None:
    """Without either the error names the scene and what is accepted."""
    bare = tuple(replace(frame, depth=None) for frame in room.train)
    with pytest.raises(DataError, match=r"procedural room, seed 0: neither .* points3D"):
        initial_points(replace(room, points=None, train=bare), 10, seeded())


def test_points_refuse_depth_that_knows_nothing(room: Scene) -> None:
    """Depth maps full of zeros are an error, not an empty start."""
    blind = replace(room.train[0], depth=np.zeros((48, 64), dtype=np.float32))
    with pytest.raises(DataError, match="depth is 0"):
        initial_points(replace(room, points=None, train=(blind,)), 10, seeded())


def test_points_refuse_to_be_none(room: Scene) -> None:
    """Asking for no points is an error that names the value."""
    with pytest.raises(ValueError, match="num = 0"):
        initial_points(room, 0, seeded())


def test_depth_adds_points_to_those_of_the_scene(room: Scene) -> None:
    """The scene's own points come first and stay; so many more follow, none without depth."""
    assert room.points is not None
    more = with_depth_points(room, room.points, 50, seeded())
    assert torch.equal(more.xyz[:-50], room.points.xyz)
    assert len(more.xyz) == len(more.rgb) == len(room.points.xyz) + 50
    assert with_depth_points(room, room.points, 0, seeded()) is room.points
    blind = replace(room, train=tuple(replace(frame, depth=None) for frame in room.train))
    assert with_depth_points(blind, room.points, 50, seeded()) is room.points


def test_depth_that_knows_nothing_leaves_the_points_of_the_scene(
    room: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    """A scene that has points is fitted from them; a warning names it."""
    assert room.points is not None
    blind = np.zeros((48, 64), dtype=np.float32)
    scene = replace(room, train=tuple(replace(frame, depth=blind) for frame in room.train))
    assert with_depth_points(scene, room.points, 50, seeded()) is room.points
    assert "depth is 0 (unknown) in all training frames" in capfd.readouterr().err


def test_depth_that_cannot_be_read_is_still_an_error(room: Scene, tmp_path: Path) -> None:
    """Only unknown depth is passed over, not a broken file."""
    assert room.points is not None
    (tmp_path / "depth.png").write_bytes(b"no picture")
    scene = replace(room, train=(replace(room.train[0], depth=tmp_path / "depth.png"),))
    with pytest.raises(DataError, match=r"depth\.png"):
        with_depth_points(scene, room.points, 50, seeded())


def test_points_that_no_depth_can_give_are_missed(
    room: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a line, not an error: the presets ask for them wherever depth may be."""
    assert room.points is not None
    blind = replace(room, train=tuple(replace(frame, depth=None) for frame in room.train))
    with_depth_points(blind, room.points, 50, seeded())
    assert "no training frame has depth: fit.depth_points = 50 adds none" in capfd.readouterr().err
    with_depth_points(blind, room.points, 0, seeded())
    assert capfd.readouterr().err == ""
