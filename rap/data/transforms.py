"""`transforms.json` of nerfstudio and instant-ngp: one file, or a `_train` and `_test` pair.

Poses are camera-to-world in OpenGL axes. The principal point is read with pixel centres at +0.5,
as COLMAP and both tools count; a file written for integer centres is off by half a pixel, which
nothing in it can tell. Units are the file's own and often not metres.
"""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from rap import geometry
from rap.camera import Camera
from rap.data import colmap_model
from rap.data.colmap import known_names, split_names
from rap.data.validate import (
    IMAGE_SUFFIXES,
    as_float,
    checked_poses,
    checked_scene,
    image_size,
    number,
    one_camera,
    read_json,
)
from rap.scene import DataError, Frame, Points, Scene, centres

_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_OPENGL_FROM_OPENCV = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
_SAME_WORLD = 1e-3


def detect(root: Path) -> bool:
    """Whether the folder holds a transforms file."""
    return any((root / name).exists() for name in ("transforms.json", "transforms_train.json"))


def read(root: Path) -> Scene:
    """The scene in a folder with transforms files; `DataError` where it cannot be used.

    The pair is taken before the single file. A single file is split by its own `train_filenames`
    and `test_filenames`, or else as a COLMAP folder is.
    """
    pair = [root / "transforms_train.json", root / "transforms_test.json"]
    if pair[0].exists():
        listed = [_entries(path) for path in pair]
        (train, _), (test, _) = listed
        cameras = [camera for _, part in listed for camera in part]
        source, split = pair[0], f"{pair[0]}, {pair[1].name}"
    else:
        source = root / "transforms.json"
        frames, cameras = _entries(source)
        if not frames:
            raise DataError(f"{source}: 'frames' is empty, it holds no image")
        train, test, split = _split(root, source, frames)
    scene = Scene(
        name=root.name,
        source=f"transforms file {source}",
        camera=one_camera(cameras, source),
        train=train,
        test=test,
        points=_points(root, (*train, *test)),
    )
    return checked_scene(scene, split, str(source))


def _entries(path: Path) -> tuple[tuple[Frame, ...], list[Camera]]:
    """Frames of one file and the camera of each."""
    content = read_json(path)
    entries = content.get("frames")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: 'frames' must be a list of objects")
    images = [_image(path, entry) for entry in entries]
    where = [f"{path}: {entry['file_path']}" for entry in entries]
    matrices = [_matrix(entry, name) for entry, name in zip(entries, where, strict=True)]
    opengl_poses = checked_poses(np.array(matrices, dtype=np.float64).reshape(-1, 4, 4), where)
    world_from_camera = opengl_poses @ _OPENGL_FROM_OPENCV
    cameras = _cameras(path, content, entries, images)
    frames = tuple(
        Frame(
            Path(os.path.relpath(image, path.parent)).with_suffix("").as_posix(),
            pose,
            image,
            mask=_mask(path, entry),
            pose_file=path,
        )
        for image, pose, entry in zip(images, world_from_camera, entries, strict=True)
    )
    return frames, cameras


def _image(path: Path, entry: dict[str, Any]) -> Path:
    name = entry.get("file_path")
    if not isinstance(name, str) or not Path(name).name:
        raise DataError(f"{path}: a frame has file_path {name!r}; it must be the path of an image")
    image = path.parent / name
    if image.is_file() or image.suffix in IMAGE_SUFFIXES:
        return image
    for suffix in IMAGE_SUFFIXES:
        if (candidate := image.with_name(image.name + suffix)).exists():
            return candidate
    raise DataError(
        f"{image}: no such image, with or without {', '.join(IMAGE_SUFFIXES[:3])}; "
        f"restore it, or remove its frame from {path.name}"
    )


def _mask(path: Path, entry: dict[str, Any]) -> Path | None:
    """nerfstudio's `mask_path`, black where the photograph does not count."""
    name = entry.get("mask_path")
    if name is None:
        return None
    if not isinstance(name, str) or not (path.parent / name).is_file():
        raise DataError(f"{path}: a frame has mask_path {name!r}; it must be the path of an image")
    return path.parent / name


def _matrix(entry: dict[str, Any], where: str) -> list[list[float]]:
    rows = entry.get("transform_matrix")
    plain = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
    if not plain or [len(row) for row in rows] not in ([4] * 4, [4] * 3):
        raise DataError(f"{where}: 'transform_matrix' must be 4 rows of 4 numbers")
    if not all(isinstance(value, int | float) for row in rows for value in row):
        raise DataError(f"{where}: 'transform_matrix' holds something that is not a number")
    numbers = [[as_float(value) for value in row] for row in rows]
    return [*numbers, [0.0, 0.0, 0.0, 1.0]][:4]


def _cameras(
    path: Path, content: dict[str, Any], entries: list[dict[str, Any]], images: list[Path]
) -> list[Camera]:
    """The camera of each frame; values in a frame override those of the file."""
    keys = {"w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y"}
    keys |= {"camera_model", "is_fisheye", *_DISTORTION}
    common = {key: value for key, value in content.items() if key in keys}
    shared: Camera | None = None
    cameras = []
    for entry, image in zip(entries, images, strict=True):
        own = {key: value for key, value in entry.items() if key in keys}
        if own:
            cameras.append(_camera(path, common | own, image))
        else:
            shared = shared or _camera(path, common, image)
            cameras.append(shared)
    return cameras


def _camera(path: Path, content: dict[str, Any], image: Path) -> Camera:
    _refuse_distortion(path, content)
    if "w" in content and "h" in content:
        width, height = round(number(content, "w", path)), round(number(content, "h", path))
    else:
        width, height = image_size(image)
    fx = _focal(path, content, "x", width)
    has_fy = "fl_y" in content or "camera_angle_y" in content
    fy = _focal(path, content, "y", height) if has_fy else fx
    cx = number(content, "cx", path) if "cx" in content else width / 2
    cy = number(content, "cy", path) if "cy" in content else height / 2
    return Camera(fx, fy, cx, cy, width, height)


def _focal(path: Path, content: dict[str, Any], axis: str, size: int) -> float:
    """`fl_x` in pixels, or from the field of view `camera_angle_x` in radians."""
    if f"fl_{axis}" in content:
        return number(content, f"fl_{axis}", path)
    if f"camera_angle_{axis}" not in content:
        raise DataError(f"{path}: neither 'fl_{axis}' nor 'camera_angle_{axis}' is given")
    angle = number(content, f"camera_angle_{axis}", path)
    if not 0 < angle < math.pi:
        raise DataError(
            f"{path}: 'camera_angle_{axis}' is {angle:g}; accepted are radians between 0 and pi"
        )
    return size / (2 * math.tan(angle / 2))


def _refuse_distortion(path: Path, content: dict[str, Any]) -> None:
    given = {key: number(content, key, path) for key in _DISTORTION if key in content}
    nonzero = [f"{key} = {value:g}" for key, value in given.items() if value]
    model = content.get("camera_model", "PINHOLE")
    if model not in _MODELS or content.get("is_fisheye"):
        nonzero.append(f"camera model {'fisheye' if content.get('is_fisheye') else model}")
    if nonzero:
        raise DataError(
            f"{path}: distorted ({', '.join(nonzero)}); only pinhole images are accepted. "
            "Undistort: colmap image_undistorter --image_path IMAGES --input_path MODEL "
            "--output_path UNDISTORTED --output_type COLMAP, then read UNDISTORTED"
        )


def _split(
    root: Path, source: Path, frames: tuple[Frame, ...]
) -> tuple[tuple[Frame, ...], tuple[Frame, ...], str]:
    content = read_json(source)
    keys = ("train_filenames", "test_filenames")
    listed = [value for key in keys if isinstance(value := content.get(key), list)]
    by_name = _by_name(source, frames, root)
    if len(listed) == len(keys):
        for key, part in zip(keys, listed, strict=True):
            _check_names(source, key, part)
        train, test = (
            known_names(source, [Path(name).as_posix() for name in part], sorted(by_name), "frames")
            for part in listed
        )
        split = f"{source}: {', '.join(keys)}"
        return tuple(by_name[n] for n in train), tuple(by_name[n] for n in test), split
    bare = {name.removeprefix("images/"): frame for name, frame in by_name.items()}
    if len(bare) == len(by_name):
        by_name = bare
    names, test_names, split = split_names(root, sorted(by_name), str(source))
    return tuple(by_name[n] for n in names), tuple(by_name[n] for n in test_names), split


def _by_name(source: Path, frames: tuple[Frame, ...], root: Path) -> dict[str, Frame]:
    """Frames by the paths of their images below the folder."""
    by_name: dict[str, Frame] = {}
    for frame in frames:
        name = _file_name(frame, root)
        if name in by_name:
            raise DataError(f"{source}: names the image '{name}' twice; remove one of its frames")
        by_name[name] = frame
    return by_name


def _check_names(source: Path, key: str, names: list[object]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"{source}: '{key}' must be a list of names, {name!r} is none")


def _file_name(frame: Frame, folder: Path) -> str:
    assert isinstance(frame.image, Path)
    return Path(os.path.relpath(frame.image, folder)).as_posix()


def _points(root: Path, frames: tuple[Frame, ...]) -> Points | None:
    """Points of a COLMAP model beside the file, where both have the same world.

    nerfstudio moves and scales the world, so the model's camera centres must agree first.
    """
    folder = colmap_model.find_model(root)
    if folder is None:
        return None
    images, _ = colmap_model.read_images(folder)
    stored = {Path(entry.name).stem: index for index, entry in enumerate(images)}
    both = [frame for frame in frames if Path(frame.name).stem in stored]
    if not both:
        return None
    rows = [stored[Path(frame.name).stem] for frame in both]
    world_from_camera: Float64[Tensor, "n 4 4"] = geometry.invert(
        colmap_model.camera_from_world(images)
    )
    here, there = centres(both), world_from_camera[rows, :3, 3]
    extent = float((here.amax(0) - here.amin(0)).max())
    agree = float((here - there).abs().max()) <= _SAME_WORLD * max(extent, 1e-9)
    return colmap_model.find_points(root) if agree else None
