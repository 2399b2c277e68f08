"""7-Scenes folders: `seq-XX/frame-NNNNNN.{color.png,pose.txt,depth.png}` and two split files.

Poses are camera-to-world, OpenCV axes, metres (Shotton et al., CVPR 2013). `camera.json` gives the
intrinsics (pixel centres at +0.5); without it the images must have the 640x480 of the original.
"""

import re
from pathlib import Path

import numpy as np

from rap.camera import Camera
from rap.data import colmap_model
from rap.data.validate import (
    checked_poses,
    checked_scene,
    floats,
    image_size,
    read_camera,
    read_text,
)
from rap.scene import DataError, Frame, Scene, bounds

KNOWN_CAMERA = Camera(525.0, 525.0, 320.0, 240.0, 640, 480)
"""What everyone uses for the original 640x480 colour images."""
_MAX_EXTENT_M = 100.0


def detect(root: Path) -> bool:
    """Whether the folder holds 7-Scenes split files or sequences."""
    return (root / "TrainSplit.txt").exists() or any(root.glob("seq-*/frame-*.pose.txt"))


def read(root: Path) -> Scene:
    """The scene in a 7-Scenes folder; `DataError` where it cannot be used."""
    train = _split(root, "Train")
    test = _split(root, "Test")
    both = sorted(set(train) & set(test))
    if both:
        raise DataError(
            f"{root / 'TestSplit.txt'}: {both[0]} is also in TrainSplit.txt; "
            "training and test sequences must be disjoint"
        )
    train_frames = tuple(frame for sequence in train for frame in _frames(root / sequence))
    test_frames = tuple(frame for sequence in test for frame in _frames(root / sequence))
    camera, intrinsics = _camera(root, train_frames)
    scene = Scene(
        name=root.name,
        source=f"7-Scenes folder {root}",
        camera=camera,
        train=train_frames,
        test=test_frames,
        points=colmap_model.find_points(root),
    )
    checked = checked_scene(scene, f"{root}/TrainSplit.txt, TestSplit.txt", intrinsics)
    _check_metres(checked)
    return checked


def _camera(root: Path, frames: tuple[Frame, ...]) -> tuple[Camera, str]:
    """Intrinsics and where they come from: `camera.json`, or those of the original size."""
    path = root / "camera.json"
    if path.exists():
        return read_camera(path), str(path)
    image = frames[0].image if frames else None
    if isinstance(image, Path) and image_size(image) != (640, 480):
        width, height = image_size(image)
        raise DataError(
            f"{path}: no such file, and {image} is {width}x{height}, not the original "
            "640x480; write it with fx, fy, cx, cy, width and height"
        )
    return KNOWN_CAMERA, "the known 7-Scenes camera"


def _split(root: Path, part: str) -> list[str]:
    """Folders of the sequences of one split, from lines such as `sequence3`."""
    path = root / f"{part}Split.txt"
    sequences = []
    for line in read_text(path).split():
        match = re.fullmatch(r"(?:sequence|seq-?)(\d+)", line)
        if not match:
            raise DataError(f"{path}: '{line}'; accepted are lines such as 'sequence3'")
        sequences.append(f"seq-{int(match[1]):02d}")
    if not sequences:
        raise DataError(f"{path}: empty; name at least one sequence, such as 'sequence1'")
    return sequences


def _frames(folder: Path) -> list[Frame]:
    images = {
        path.name.split(".")[0]: path
        for suffix in ("png", "jpg", "jpeg")
        for path in folder.glob(f"frame-*.color.{suffix}")
    }
    poses = {path.name.split(".")[0]: path for path in folder.glob("frame-*.pose.txt")}
    if not images:
        archive = folder.with_suffix(".zip")
        fix = f"unpack {archive.name} there" if archive.exists() else "copy or restore it"
        raise DataError(f"{folder}: no frame-*.color.png or .jpg in it; {fix}")
    for stem in sorted(images.keys() ^ poses.keys()):
        missing = f"{stem}.pose.txt" if stem in images else f"{stem}.color.png"
        raise DataError(f"{folder / missing}: no such file; restore it, or remove {stem} wholly")
    stems = sorted(images)
    where = [str(poses[stem]) for stem in stems]
    matrices = np.array([floats(read_text(poses[stem]), 16, str(poses[stem])) for stem in stems])
    world_from_camera = checked_poses(matrices.reshape(-1, 4, 4), where)
    depths = {path.name.split(".")[0]: path for path in folder.glob("frame-*.depth.png")}
    return [
        Frame(f"{folder.name}/{stem}", pose, images[stem], depths.get(stem), pose_file=poses[stem])
        for stem, pose in zip(stems, world_from_camera, strict=True)
    ]


def _check_metres(scene: Scene) -> None:
    """The format is in metres and of rooms: an extent of hundreds is another unit."""
    low, high = bounds((*scene.train, *scene.test))
    extent = float((high - low).max())
    if extent > _MAX_EXTENT_M:
        raise DataError(
            f"{scene.source}: the camera centres span {extent:.0f} m, at most "
            f"{_MAX_EXTENT_M:.0f} m are plausible: are the pose.txt files in "
            "millimetres? Divide their translations by 1000"
        )
