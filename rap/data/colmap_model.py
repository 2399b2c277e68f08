"""COLMAP's sparse model, text and binary: cameras, image poses and points; 2D tracks are skipped.

Layout of the files: colmap.github.io/format.html. COLMAP stores camera-from-world in OpenCV axes,
with pixel centres at +0.5, as we do.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from rap import geometry
from rap.camera import Camera
from rap.data.validate import is_number, read_bytes, read_text
from rap.scene import DataError, Points

# Camera models by their number in binary files: name and number of parameters.
_MODELS = (
    ("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8),
    ("OPENCV_FISHEYE", 8), ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4),
    ("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12), ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
)  # fmt: skip


@dataclass(frozen=True)
class ImageEntry:
    """One posed image of a model, as stored: camera-from-world, wxyz."""

    name: str
    quaternion: tuple[float, float, float, float]
    translation: tuple[float, float, float]
    camera_id: int


@dataclass(frozen=True)
class Model:
    """Cameras by number, and images; `images_file` is where the poses came from."""

    cameras: dict[int, Camera]
    images: list[ImageEntry]
    cameras_file: Path
    images_file: Path


def find_model(root: Path) -> Path | None:
    """The folder of a model below `root`: `sparse/0`, `sparse` or `root` itself."""
    for folder in (root / "sparse" / "0", root / "sparse", root):
        if _file(folder, "images") is not None:
            return folder
    return None


def read_model(folder: Path) -> Model:
    """Cameras and poses of a model; refuses distorted cameras and broken files."""
    images, images_file = read_images(folder)
    cameras_file = _file(folder, "cameras")
    if cameras_file is None:
        raise DataError(f"{folder / 'cameras'}.bin or .txt: no such file; restore it")
    cameras = _read(cameras_file, _cameras_from_text, _cameras_from_binary)
    for image in images:
        if image.camera_id not in cameras:
            raise DataError(
                f"{images_file}: {image.name} names camera {image.camera_id}, "
                f"which {cameras_file.name} lacks"
            )
    return Model(cameras, images, cameras_file, images_file)


def read_images(folder: Path) -> tuple[list[ImageEntry], Path]:
    """The poses of a model, and the file that holds them."""
    path = _file(folder, "images")
    if path is None:
        raise DataError(f"{folder / 'images'}.bin or .txt: no such file; restore it")
    images = _read(path, _images_from_text, _images_from_binary)
    for index, image in enumerate(images, start=1):
        if not PurePosixPath(image.name).name:
            raise DataError(f"{path}: image {index} of {len(images)} has no name")
    return images, path


def find_points(root: Path) -> Points | None:
    """The points of the model below `root`, or None where there are none."""
    folder = find_model(root)
    path = None if folder is None else _file(folder, "points3D")
    if path is None:
        return None
    table = _read(path, _points_from_text, _points_from_binary)
    if not len(table):
        return None
    if not np.isfinite(table).all():
        row = int(np.argmax(~np.isfinite(table).all(1)))
        raise DataError(f"{path}: point {row} of {len(table)} is not finite; remove it")
    return Points(
        xyz=torch.from_numpy(table[:, :3].astype(np.float32)),
        rgb=torch.from_numpy(table[:, 3:].astype(np.uint8)),
    )


def camera_from_world(images: list[ImageEntry]) -> Float64[Tensor, "n 4 4"]:
    """Poses as stored; a zero quaternion becomes nan, which the pose check refuses."""
    quaternion = torch.tensor([image.quaternion for image in images], dtype=torch.float64)
    length = torch.linalg.vector_norm(quaternion, dim=-1)
    quaternion = torch.where(length[:, None] > 1e-6, quaternion, torch.nan)
    translation = torch.tensor([image.translation for image in images], dtype=torch.float64)
    return geometry.rigid(geometry.rotation_from_quaternion(quaternion), translation)


def _file(folder: Path, stem: str) -> Path | None:
    """Binary before text, as COLMAP itself prefers."""
    for path in (folder / f"{stem}.bin", folder / f"{stem}.txt"):
        if path.exists():
            return path
    return None


def _read(path: Path, text: Callable[..., Any], binary: Callable[..., Any]) -> Any:  # noqa: ANN401 (what the parser given returns)
    return binary(_Binary(path)) if path.suffix == ".bin" else text(path)


def _camera(path: Path, model: str, width: int, height: int, params: list[float]) -> Camera:
    if model == "PINHOLE" and len(params) == 4:
        fx, fy, cx, cy = params
        return Camera(fx, fy, cx, cy, width, height)
    if model == "SIMPLE_PINHOLE" and len(params) == 3:
        focal, cx, cy = params
        return Camera(focal, focal, cx, cy, width, height)
    if model in ("PINHOLE", "SIMPLE_PINHOLE"):
        raise DataError(f"{path}: a {model} camera with {len(params)} parameters")
    raise DataError(
        f"{path}: a camera of model {model}; only PINHOLE and SIMPLE_PINHOLE are accepted. "
        f"Undistort: colmap image_undistorter --image_path IMAGES --input_path {path.parent} "
        "--output_path UNDISTORTED --output_type COLMAP, then read UNDISTORTED"
    )


class _Binary:
    """Reads little-endian records in order; an early end is a `DataError` naming the record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = read_bytes(path)
        self.offset = 0
        self.record = "the header"

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        self.skip(layout.size)
        return layout.unpack_from(self.content, self.offset - layout.size)

    def skip(self, num_bytes: int) -> None:
        self.offset += num_bytes
        if self.offset > len(self.content):
            raise self.truncated()

    def name(self) -> str:
        """A zero-terminated string."""
        end = self.content.find(b"\0", self.offset)
        if end < 0:
            raise self.truncated()
        start, self.offset = self.offset, end + 1
        return self.content[start:end].decode("utf-8", errors="replace")

    def count(self) -> int:
        return int(self.take(_COUNT)[0])

    def truncated(self) -> DataError:
        return DataError(
            f"{self.path}: ends inside {self.record} ({len(self.content)} bytes); "
            "the file is truncated, copy it again"
        )


_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<iiQQ")
_IMAGE = struct.Struct("<I7dI")
_POINT = struct.Struct("<Q3d3BdQ")


def _cameras_from_binary(file: _Binary) -> dict[int, Camera]:
    cameras = {}
    num = file.count()
    for index in range(num):
        file.record = f"camera {index + 1} of {num}"
        camera_id, model, width, height = file.take(_CAMERA)
        if not 0 <= model < len(_MODELS):
            raise DataError(f"{file.path}: camera {camera_id} has the unknown model {model}")
        name, num_params = _MODELS[model]
        params = file.take(struct.Struct(f"<{num_params}d"))
        cameras[camera_id] = _camera(file.path, name, width, height, list(params))
    return cameras


def _images_from_binary(file: _Binary) -> list[ImageEntry]:
    images = []
    num = file.count()
    for index in range(num):
        file.record = f"image {index + 1} of {num}"
        _, *pose, camera_id = file.take(_IMAGE)
        quaternion = (pose[0], pose[1], pose[2], pose[3])
        translation = (pose[4], pose[5], pose[6])
        images.append(ImageEntry(file.name(), quaternion, translation, camera_id))
        file.skip(24 * file.count())
    return images


def _points_from_binary(file: _Binary) -> np.ndarray:
    num = file.count()
    if num * _POINT.size > len(file.content):
        file.record = f"its {num} points"
        raise file.truncated()
    table = np.empty((num, 6))
    for index in range(num):
        file.record = f"point {index + 1} of {num}"
        record = file.take(_POINT)
        table[index] = record[1:7]
        file.skip(8 * record[8])
    return table


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines with their numbers, comments left out; empty ones stay, they are empty tracks."""
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [(number, line) for number, line in lines if not line.startswith("#")]


def _malformed(path: Path, number: int, layout: str, line: str) -> DataError:
    return DataError(f"{path}: line {number} is '{line[:60]}'; expected {layout}")


def _cameras_from_text(path: Path) -> dict[int, Camera]:
    cameras = {}
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            camera_id, model, width, height, *params = line.split()
            size = (int(width), int(height))
            values = [float(value) for value in params]
            key = int(camera_id)
        except ValueError as error:
            layout = "CAMERA_ID MODEL WIDTH HEIGHT PARAMS"
            raise _malformed(path, number, layout, line) from error
        cameras[key] = _camera(path, model, *size, values)
    return cameras


def _images_from_text(path: Path) -> list[ImageEntry]:
    images = []
    track_due = False
    for number, line in _lines(path):
        # A photograph's line of 2D points may be empty, and some tools leave it out.
        if not line.strip() or (track_due and not _is_image(line)):
            track_due = False
            continue
        track_due = True
        try:
            _, *words, camera_id, name = line.split(maxsplit=9)
            qw, qx, qy, qz, tx, ty, tz = map(float, words)
            images.append(ImageEntry(name.strip(), (qw, qx, qy, qz), (tx, ty, tz), int(camera_id)))
        except ValueError as error:
            layout = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of 2D points"
            raise _malformed(path, number, layout, line) from error
    return images


def _is_image(line: str) -> bool:
    """Whether a line holds a photograph's pose and name, and not 2D points: threes of numbers."""
    words = line.split()
    if len(words) < 10 or not all(map(is_number, words[:9])):
        return False
    return len(words) % 3 != 0 or not all(map(is_number, words[9:12]))


def _points_from_text(path: Path) -> np.ndarray:
    rows = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        words = line.split(maxsplit=7)
        try:
            _, x, y, z, r, g, b = map(float, words[:7])
        except ValueError as error:
            raise _malformed(path, number, "POINT3D_ID X Y Z R G B ERROR TRACK", line) from error
        rows.append((x, y, z, r, g, b))
    return np.array(rows).reshape(-1, 6)
