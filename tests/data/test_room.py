"""The procedural room: what it promises about depth, points, poses, light and files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rap.camera import Camera
from rap.data import load, room, room_layout
from rap.data.room import RoomSpec, make, write
from rap.data.room_layout import Solids
from rap.data.room_render import Light
from rap.data.room_textures import Atlas
from rap.geometry import invert, orthonormality_error, rotation_angle_deg, transform
from rap.scene import DataError, Frame, Points, Scene, centres, poses

STILL = RoomSpec(num_train=24, num_test=0, lamps_vary=False)


@pytest.fixture(scope="module")
def still() -> Scene:
    """A room whose lamps stay as they are, so that colours repeat from frame to frame."""
    return make(STILL)


def image_of(frame: Frame) -> np.ndarray:
    """Image of a frame, from memory or from its file."""
    if isinstance(frame.image, Path):
        with Image.open(frame.image) as image:
            return np.asarray(image)
    return frame.image


def depth_of(frame: Frame) -> torch.Tensor:
    """Depth of a frame in float64 metres, from memory or from its file."""
    if isinstance(frame.depth, Path):
        with Image.open(frame.depth) as depth:
            return torch.from_numpy(np.asarray(depth) / 1000.0)
    assert frame.depth is not None
    return torch.from_numpy(frame.depth).double()


def points_of(scene: Scene) -> Points:
    """The scene's points, which a room always has."""
    assert scene.points is not None
    return scene.points


def world_points(frame: Frame, camera: Camera) -> torch.Tensor:
    """The surface point of every pixel centre, `[h·w, 3]`."""
    rays = camera.rays(dtype=torch.float64) * depth_of(frame)[..., None]
    return transform(frame.world_from_camera, rays.flatten(0, 1))


def look_up(frame: Frame, camera: Camera, xyz: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Camera-frame points of those that fall into the image, and which they are."""
    points = transform(invert(frame.world_from_camera), xyz)
    index = (points[:, 2] > 0.1) & camera.contains(camera.project(points) * 0.999999)
    return points[index], index


def pixel_of(camera: Camera, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of the pixels that camera-frame points fall into."""
    column, row = camera.project(points).floor().long().unbind(-1)
    return row, column


def plane_distance(solids: room_layout.Solids, xyz: np.ndarray) -> np.ndarray:
    """Distance of points to the nearest plane of any face."""
    signed = np.einsum("nc,sfc->nsf", xyz, solids.normal) - solids.offset
    return np.abs(signed).min(axis=(1, 2))


@pytest.fixture(scope="module")
def solids() -> room_layout.Solids:
    """The boxes of the default seed."""
    return room_layout.build(room.generator(STILL, "layout")).solids


def test_room_equal_specs_give_equal_bytes() -> None:
    """Images, depth, poses and points are a function of the spec alone."""
    spec = RoomSpec(seed=3, num_train=3, num_test=2, width=48, height=36)
    a, b = make(spec), make(spec)
    for first, second in zip(a.train + a.test, b.train + b.test, strict=True):
        assert np.array_equal(image_of(first), image_of(second))
        assert torch.equal(depth_of(first), depth_of(second))
        assert torch.equal(first.world_from_camera, second.world_from_camera)
    assert torch.equal(points_of(a).xyz, points_of(b).xyz)
    assert torch.equal(points_of(a).rgb, points_of(b).rgb)


def test_room_seeds_give_different_rooms() -> None:
    """Another seed changes the walk and what is seen."""
    a, b = (make(RoomSpec(seed=s, num_train=1, num_test=0, width=48, height=36)) for s in (0, 1))
    difference = np.abs(image_of(a.train[0]).astype(float) - image_of(b.train[0]))
    assert difference.mean() > 20
    assert not torch.allclose(poses(a.train), poses(b.train), atol=0.05)


def test_room_lamps_change_light_but_not_geometry(still: Scene) -> None:
    """With varying lamps the depth stays and the colours move by whole-image factors."""
    varied = make(replace(STILL, lamps_vary=True))
    ratios = []
    for a, b in zip(still.train, varied.train, strict=True):
        assert torch.equal(depth_of(a), depth_of(b))
        ratios.append(image_of(b).mean() / image_of(a).mean())
    assert np.std(ratios) > 0.05
    assert 0.6 < np.mean(ratios) < 1.6


def test_room_depth_reprojects_onto_known_planes(still: Scene, solids: room_layout.Solids) -> None:
    """Every pixel's depth ends on a face of the layout, to a tenth of a millimetre."""
    for frame in still.train[::6]:
        xyz = world_points(frame, still.camera).numpy()
        assert plane_distance(solids, xyz).max() < 1e-4


def test_room_depth_agrees_between_frames(still: Scene) -> None:
    """Depth of one frame, moved into the next, is that frame's depth unless something is before it.

    The neighbour's depth at the exact sub-pixel position is interpolated in 1/z, which is exact on
    a plane; at edges and behind occluders it is not comparable, which is the minority.
    """
    camera = still.camera
    for a, b in zip(still.train[::5], still.train[1::5], strict=False):
        points, _ = look_up(b, camera, world_points(a, camera))
        position = camera.project(points)
        size = torch.tensor([camera.width, camera.height])
        grid = (2 * position / size - 1)[None, None]
        inverse = depth_of(b).reciprocal()[None, None]
        seen = torch.nn.functional.grid_sample(
            inverse, grid, padding_mode="border", align_corners=False
        )
        relative = (seen.flatten() * points[:, 2] - 1).abs()
        assert len(relative) > 0.3 * camera.width * camera.height
        assert relative.quantile(0.75) < 1e-4
        # what disagrees is hidden: a nearer surface, never a farther one, except across an edge
        assert (relative < 1e-3).double().mean() > 0.8


def test_room_colour_agrees_between_frames(still: Scene) -> None:
    """Under constant light a surface has one colour from everywhere."""
    camera = still.camera
    a, b = still.train[4], still.train[5]
    points, index = look_up(b, camera, world_points(a, camera))
    row, column = pixel_of(camera, points)
    there = image_of(b)[row, column].astype(float)
    here = image_of(a).reshape(-1, 3)[index.numpy()].astype(float)
    shuffled = np.random.default_rng(0).permutation(here)
    assert np.median(np.abs(there - here)) < 8
    assert np.median(np.abs(there - shuffled)) > 25


def test_room_surface_points_lie_where_depth_and_colour_say(
    still: Scene, solids: room_layout.Solids
) -> None:
    """Points lie on faces, training frames see each of them, and in its colour."""
    points = points_of(still)
    assert len(points.xyz) == STILL.num_points
    assert plane_distance(solids, points.xyz.double().numpy()).max() < 1e-4
    camera, distance = still.camera, []
    seen = torch.zeros(len(points.xyz), dtype=torch.bool)
    for frame in still.train:
        local, index = look_up(frame, camera, points.xyz.double())
        row, column = pixel_of(camera, local)
        free = (depth_of(frame)[row, column] / local[:, 2] - 1).abs() < 0.021
        image = image_of(frame)[row, column].astype(float)
        colour = points.rgb[index].numpy().astype(float)
        distance.append(np.abs(image - colour)[free.numpy()])
        seen[index.nonzero().flatten()[free]] = True
    assert seen.double().mean() > 0.999
    assert np.median(np.concatenate(distance)) < 12


def test_room_cameras_stand_free_and_upright(still: Scene) -> None:
    """No camera within 0.2 m of a surface, all are rotations, and image up is world up."""
    for seed in range(3):
        scene = make(RoomSpec(seed=seed, num_train=16, num_test=8, width=32, height=24))
        frames = scene.train + scene.test
        assert min(depth_of(frame).min() for frame in frames) > 0.2
        world_from_camera = poses(frames)
        assert orthonormality_error(world_from_camera[:, :3, :3]).max() < 1e-12
        assert (world_from_camera[:, 2, 1] < -0.7).all()
        heights = centres(frames)[:, 2]
        assert heights.min() > 1.0
        assert heights.max() < 1.9


def test_room_test_poses_lie_beside_the_training_path() -> None:
    """Perfect retrieval would score 15-40 cm and 3-15 degrees, as on real second passes."""
    for seed in range(2):
        scene = make(RoomSpec(seed=seed, width=16, height=12))
        train, test = poses(scene.train), poses(scene.test)
        metres = torch.cdist(test[:, :3, 3], train[:, :3, 3])
        degrees = rotation_angle_deg(
            test[:, None, :3, :3].expand(-1, len(train), 3, 3),
            train[None, :, :3, :3].expand(len(test), -1, 3, 3),
        )
        nearest = (metres / 0.05 + degrees / 5).argmin(1, keepdim=True)
        metres, degrees = metres.gather(1, nearest), degrees.gather(1, nearest)
        assert metres.min() > 0.1
        assert metres.max() < 0.45
        assert 0.15 < metres.median() < 0.4
        assert 3 < degrees.median() < 15


def test_room_viewpoints_are_distinguishable() -> None:
    """Even as 20×15 thumbnails under varying lamps, other places differ more than neighbours."""
    scene = make(RoomSpec(num_train=48, num_test=0))
    thumbnails = np.stack([
        image_of(f).astype(float).reshape(15, 8, 20, 8, 3).mean((1, 3)) for f in scene.train
    ])  # fmt: skip
    thumbnails /= thumbnails.mean((1, 2, 3), keepdims=True)
    flat = thumbnails.reshape(48, -1)
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    gap = np.abs(distance.argmin(1) - np.arange(48))
    assert (np.minimum(gap, 48 - gap) <= 3).mean() > 0.95


@pytest.mark.parametrize(
    ("field", "value"), [("num_train", 0), ("width", 0), ("num_test", -1), ("seed", -1)]
)
def test_room_refuses_impossible_specs(field: str, value: int) -> None:
    """The error names the field and the value."""
    changed: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=f"{field} = {value}"):
        RoomSpec(**changed)


def test_room_write_refuses_a_folder_with_content(tmp_path: Path) -> None:
    """Nothing of a person's is overwritten."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        write(RoomSpec(num_train=1, num_test=0, width=16, height=12), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_room_write_leaves_nothing_behind_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk half-way leaves neither a scene nor a temporary folder."""

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("rap.data.room_files._write_model", full)
    with pytest.raises(OSError, match="no space left"):
        write(RoomSpec(num_train=1, num_test=0, width=16, height=12), tmp_path / "room")
    assert list(tmp_path.iterdir()) == []


def test_room_written_and_read_is_the_same_scene(tmp_path: Path) -> None:
    """Poses to 1e-6, images bit for bit, depth to half a millimetre, points to a micrometre."""
    spec = RoomSpec(num_train=3, num_test=2, width=40, height=30, num_points=50)
    write(spec, tmp_path / "room")
    made, read = make(spec), load(tmp_path / "room")
    assert read.camera == made.camera
    assert [f.name for f in read.train + read.test] == [f.name for f in made.train + made.test]
    for a, b in zip(made.train + made.test, read.train + read.test, strict=True):
        assert torch.allclose(a.world_from_camera, b.world_from_camera, atol=1e-6, rtol=0)
        assert np.array_equal(image_of(a), image_of(b))
        assert (depth_of(a) - depth_of(b)).abs().max() <= 0.000501
    assert torch.allclose(points_of(read).xyz, points_of(made).xyz, atol=2e-6, rtol=0)
    assert torch.equal(points_of(read).rgb, points_of(made).rgb)


def test_unseen_lamps_are_in_no_training_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every lamp of every test frame is dimmer or brighter than in all training frames."""
    lights: list[torch.Tensor] = []
    render = room.room_render.render

    def listen(
        solids: Solids, atlas: Atlas, camera: Camera, pose: np.ndarray, light: Light
    ) -> tuple[np.ndarray, np.ndarray]:
        lights.append(light.lamps)
        return render(solids, atlas, camera, pose, light)

    monkeypatch.setattr(room.room_render, "render", listen)
    make(RoomSpec(num_train=40, num_test=20, width=16, height=12, unseen_lamps=True))
    # the tint is a few percent of each channel: the mean over channels is the power
    power = torch.stack(lights).log().mean(1)
    train, test = power[:40] - np.log(room.LAMP_POWER), power[40:] - np.log(room.LAMP_POWER)
    assert train.abs().max() < 0.45 + 0.2
    assert test.abs().min() > 0.45 - 0.2
    assert (test.abs().mean(), train.abs().mean()) == pytest.approx((0.675, 0.22), abs=0.1)
    assert {bool(bright) for bright in (test > 0).flatten()} == {True, False}


def test_unseen_lamps_leave_poses_and_points_alone() -> None:
    """Only light differs; and lamps that are still cannot be unseen."""
    spec = RoomSpec(num_train=8, num_test=4, width=32, height=24, num_points=50)
    usual, unseen = make(spec), make(replace(spec, unseen_lamps=True))
    assert torch.equal(poses(usual.test), poses(unseen.test))
    assert torch.equal(points_of(usual).xyz, points_of(unseen).xyz)
    assert not np.array_equal(image_of(usual.test[0]), image_of(unseen.test[0]))
    with pytest.raises(ValueError, match="unseen_lamps needs lamps_vary"):
        RoomSpec(lamps_vary=False, unseen_lamps=True)
