"""The procedural room: a seeded scene with exact poses, depth and surface points.

It stands in for a data set wherever none is at hand. World coordinates are z-up, in metres. The
parts: `room_layout` (walls, boxes, lamps), `room_textures`, `room_path` (cameras), `room_render`.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64
from numpy.random import Generator

from rap.camera import Camera
from rap.data import room_files, room_layout, room_path, room_render, room_textures
from rap.data.room_layout import Layout
from rap.data.room_render import Light
from rap.data.room_textures import Atlas
from rap.scene import DataError, Frame, Points, Scene

FOCAL_PER_WIDTH = 0.7
LAMP_POWER = 1.4
AMBIENT = 0.45
LAMP_SPREAD = 0.3
"""Deviation of the natural logarithm of a lamp's power, where lamps vary."""
SEEN_SPREADS, UNSEEN_SPREADS = 1.5, 3.0
"""With unseen lamps: training frames stay within the first, test frames lie between the two."""


@dataclass(frozen=True)
class RoomSpec:
    """Everything that determines a room; equal specs give equal bytes."""

    seed: int = 0
    """Seed of the layout, the textures, the walk and the lamps."""
    num_train: int = 64
    """Training frames, one closed walk."""
    num_test: int = 16
    """Test frames, a second walk beside the first."""
    width: int = 160
    """Image width in pixels."""
    height: int = 120
    """Image height in pixels."""
    lamps_vary: bool = True
    """Change power and colour of each lamp from frame to frame."""
    unseen_lamps: bool = False
    """Give every lamp of a test frame a power, lower or higher, that no training frame has."""
    num_points: int = 4000
    """Surface points that training frames see (fewer if they see very little of the room)."""

    def __post_init__(self) -> None:
        """Refuse counts and sizes that give no scene."""
        for name in ("num_train", "width", "height"):
            if getattr(self, name) < 1:
                raise ValueError(f"RoomSpec.{name} = {getattr(self, name)} must be at least 1")
        for name in ("seed", "num_test", "num_points"):
            if getattr(self, name) < 0:
                raise ValueError(f"RoomSpec.{name} = {getattr(self, name)} must not be negative")
        if self.unseen_lamps and not self.lamps_vary:
            raise ValueError("RoomSpec.unseen_lamps needs lamps_vary: still lamps are all alike")


def make(spec: RoomSpec = RoomSpec()) -> Scene:
    """The room in memory: uint8 images, float32 depth in metres, coloured surface points."""
    layout = room_layout.build(generator(spec, "layout"))
    atlas = room_textures.bake(layout, generator(spec, "textures"))
    walks = room_path.walks(spec.num_train, spec.num_test, generator(spec, "walk"))
    focal = FOCAL_PER_WIDTH * spec.width
    camera = Camera(focal, focal, spec.width / 2, spec.height / 2, spec.width, spec.height)
    train, test = (
        tuple(
            _frame(spec, layout, atlas, camera, sequence, index, pose)
            for index, pose in enumerate(walk)
        )
        for sequence, walk in enumerate(walks, start=1)
    )
    points = _surface_points(spec, layout, atlas, camera, train)
    return Scene("room", f"procedural room, seed {spec.seed}", camera, train, test, points)


def write(spec: RoomSpec, folder: Path) -> None:
    """The room as a 7-Scenes folder with `camera.json` and a COLMAP text model of its points.

    Everything is written under a temporary name beside `folder`, which is then renamed. Raises
    DataError if `folder` exists and is not an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists already; name a new or an empty folder for the room")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        room_files.write_scene(make(spec), temporary)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def generator(spec: RoomSpec, *purpose: str | int) -> Generator:
    """A random stream of its own for each purpose, so that counts do not shift other choices."""
    words = [int.from_bytes(str(part).encode(), "little") for part in purpose]
    return np.random.default_rng([spec.seed, *words])


def _light(spec: RoomSpec, sequence: int, index: int, num_lamps: int) -> Light:
    """The lamps of one frame: power e^N(0, 0.3), and a tint of a few percent."""
    power = np.full((3, num_lamps), LAMP_POWER)
    ambient = AMBIENT
    if spec.lamps_vary:
        rng = generator(spec, "lamps", sequence, index)
        log_power = rng.normal(0.0, LAMP_SPREAD, num_lamps)
        tint = rng.normal(0.0, 0.06, power.shape)
        ambient *= float(np.exp(rng.normal(0.0, 0.1)))
        if spec.unseen_lamps:
            log_power = _as_seen(log_power) if sequence == 1 else _unseen(num_lamps, rng)
        power *= np.exp(log_power) * np.exp(tint)
    return Light(torch.from_numpy(power).float(), ambient)


def _as_seen(log_power: Float64[np.ndarray, "l"]) -> Float64[np.ndarray, "l"]:
    limit = SEEN_SPREADS * LAMP_SPREAD
    return log_power.clip(-limit, limit)


def _unseen(num_lamps: int, rng: Generator) -> Float64[np.ndarray, "l"]:
    """Dimmer or brighter than in any training frame, either with even chance."""
    away = rng.uniform(SEEN_SPREADS, UNSEEN_SPREADS, num_lamps) * LAMP_SPREAD
    return rng.choice([-1.0, 1.0], num_lamps) * away


def _frame(
    spec: RoomSpec,
    layout: Layout,
    atlas: Atlas,
    camera: Camera,
    sequence: int,
    index: int,
    pose: Float64[np.ndarray, "4 4"],
) -> Frame:
    light = _light(spec, sequence, index, len(layout.lamps))
    image, depth = room_render.render(layout.solids, atlas, camera, pose, light)
    return Frame(f"seq-{sequence:02d}/frame-{index:06d}", torch.from_numpy(pose), image, depth)


def _surface_points(
    spec: RoomSpec, layout: Layout, atlas: Atlas, camera: Camera, frames: tuple[Frame, ...]
) -> Points:
    """Points uniform over the surfaces that training frames see, coloured under the mean light."""
    rng = generator(spec, "points")
    solids = layout.solids
    size = solids.size.reshape(-1, 2)
    area = size.prod(-1)
    face = rng.choice(len(area), size=6 * spec.num_points, p=area / area.sum())
    ab = rng.random((len(face), 2)) * size[face]
    corner, u, v = (part.reshape(-1, 3)[face] for part in (solids.corner, solids.u, solids.v))
    xyz = corner + ab[:, :1] * u + ab[:, 1:] * v
    seen = np.flatnonzero(_seen(xyz, camera, frames))[: spec.num_points]
    xyz, face = xyz[seen], face[seen]
    still = Light(torch.full((3, len(layout.lamps)), LAMP_POWER), AMBIENT)
    colour = room_render.shade(room_render.face_texels(solids, atlas, xyz, face), still)
    rgb = (colour.T * 255).round().to(torch.uint8)
    return Points(torch.from_numpy(xyz).float(), rgb.contiguous())


def _seen(
    xyz: Float64[np.ndarray, "n 3"], camera: Camera, frames: tuple[Frame, ...]
) -> Bool[np.ndarray, "n"]:
    """Which points at least one frame sees, judged by its depth to 2 %."""
    seen = np.zeros(len(xyz), dtype=bool)
    for frame in frames:
        unseen = np.flatnonzero(~seen)
        pose = frame.world_from_camera.numpy()
        x, y, z = ((xyz[unseen] - pose[:3, 3]) @ pose[:3, :3]).T
        safe_z = np.where(z > 0.05, z, np.inf)
        column = np.floor(camera.fx * x / safe_z + camera.cx).astype(np.int64)
        row = np.floor(camera.fy * y / safe_z + camera.cy).astype(np.int64)
        inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
        inside &= z > 0.05
        depth = np.asarray(frame.depth)[row[inside], column[inside]]
        seen[unseen[inside]] = np.abs(z[inside] - depth) < 0.02 * depth
    return seen
