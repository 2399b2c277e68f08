"""What every reader checks before any long work: files, poses, image sizes, the split.

Each fault ends in one `DataError` that names the file, the value, what is accepted and the fix.
Only image headers are read here, never pixels.
"""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from PIL import Image
from torch import Tensor

from rap import geometry, log
from rap.camera import Camera
from rap.scene import DataError, Frame, Scene, bounds

_LFS_HEADER = b"version https://git-lfs"
_ROTATION_TOLERANCE = 1e-3
_FOCAL_TOLERANCE = 0.05
_MAX_COORDINATE = 1e6
_MAX_SIDE_PX = 100_000
_FOV_DEG = (2.0, 170.0)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")


def is_number(word: str) -> bool:
    """Whether a word of a text file stands for a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_bytes(path: Path) -> bytes:
    """A file's content; `DataError` where it is missing or only a Git-LFS pointer to it."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; the scene is incomplete, copy or restore it")
    content = path.read_bytes()
    if content.startswith(_LFS_HEADER):
        raise _lfs_error(path)
    return content


def read_text(path: Path) -> str:
    """A text file's content, with the errors of `read_bytes`."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8 text") from error


def read_json(path: Path) -> dict[str, object]:
    """A JSON file that holds one object, with the errors of `read_bytes`."""
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno} is not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        # valid, with a number of thousands of digits or brackets as deep
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, not a JSON object {{...}}")
    return content


def number(content: dict[str, object], key: str, path: Path) -> float:
    """A finite number in a JSON object; `DataError` names the key otherwise."""
    value = content.get(key)
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not math.isfinite(converted := as_float(value)):
        found = "is missing" if value is None else f"is {value!r}"
        raise DataError(f"{path}: '{key}' {found}; it must be a finite number")
    return converted


def as_float(value: int | float) -> float:
    """The number itself; infinite for an integer that no float holds."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def read_camera(path: Path) -> Camera:
    """`camera.json`: fx, fy, cx, cy, width and height of a PINHOLE camera, centres at +0.5.

    `DataError` for intrinsics that no camera has.
    """
    content = read_json(path)
    model = content.get("model", "PINHOLE")
    if model != "PINHOLE":
        raise DataError(f"{path}: model {model!r}; only PINHOLE is accepted: undistort first")
    fx, fy, cx, cy = (number(content, key, path) for key in ("fx", "fy", "cx", "cy"))
    width, height = (round(number(content, key, path)) for key in ("width", "height"))
    camera = Camera(fx, fy, cx, cy, width, height)
    _check_camera(camera, str(path))
    return camera


def floats(text: str, num: int, where: str) -> list[float]:
    """Exactly `num` numbers from text separated by white space."""
    words = text.split()
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: {error}; expected {num} numbers") from error
    if len(values) != num:
        raise DataError(f"{where}: holds {len(values)} numbers, expected {num}")
    return values


def image_size(path: Path) -> tuple[int, int]:
    """Width and height from an image's header; `DataError` where it has none."""
    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such image; restore it, or remove its pose from the scene"
        ) from error
    except (OSError, Image.DecompressionBombError) as error:
        with path.open("rb") as file:
            if file.read(len(_LFS_HEADER)) == _LFS_HEADER:
                raise _lfs_error(path) from error
        raise DataError(f"{path}: not an image, or cut off: {error}; copy it again") from error


def checked_poses(
    matrices: Float64[np.ndarray, "n 4 4"], where: Sequence[str]
) -> Float64[Tensor, "n 4 4"]:
    """Poses whose rotations are exact: checked, then moved to the nearest rotation.

    `where[i]` names the file (and entry) that pose i came from. Refuses non-finite and absurdly
    large values, a wrong last row, mirrors, and rotations off by more than 1e-3.
    """
    poses = torch.from_numpy(matrices)
    rotation = poses[:, :3, :3]
    error = geometry.orthonormality_error(rotation)
    determinant = torch.linalg.det(rotation)
    scale = determinant.clamp_min(1e-12).pow(1 / 3)
    unscaled_error = geometry.orthonormality_error(rotation / scale[:, None, None])
    off = ~(error <= _ROTATION_TOLERANCE)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    size = poses[:, :3, 3].abs().amax(1)
    # in this order: each fault is only one where none before it holds
    for bad, fault in (
        (~poses.isfinite().flatten(1).all(1), "holds nan or inf: remove this frame, its pose was "
         "not found"),
        ((poses[:, 3] - last).abs().amax(1) > 1e-6, "has a last row other than 0 0 0 1: is the "
         "matrix transposed?"),
        (size > _MAX_COORDINATE, f"has a translation beyond {_MAX_COORDINATE:.0e}: remove this "
         "frame, it is an outlier"),
        (determinant < 0, "is left-handed, a mirror (the determinant of its rotation is "
         "negative): one axis of the camera or of the world has the wrong sign"),
        (off & (unscaled_error <= _ROTATION_TOLERANCE), "has a rotation multiplied by a scale: "
         "divide its 3x3 part by {scale:.4g}"),
        (off, "is not a rotation: R^T R differs from the identity by {error:.2g}, at most "
         f"{_ROTATION_TOLERANCE} is accepted"),
    ):  # fmt: skip
        if bool(bad.any()):
            first = int(bad.nonzero()[0])
            text = fault.format(scale=float(scale[first]), error=float(error[first]))
            others = int(bad.sum()) - 1
            more = f" ({others} more frames like it)" if others else ""
            raise DataError(f"{where[first]}: the pose {text}{more}")
    return geometry.rigid(geometry.nearest_rotation(rotation), poses[:, :3, 3])


def one_camera(cameras: Sequence[Camera], where: Path) -> Camera:
    """The one camera that stands for all: equal sizes, focal lengths within 5 % of the median.

    Everything after the readers assumes one camera, so several are replaced by their medians with
    a warning that says how far apart they are, or refused.
    """
    if not cameras:
        raise DataError(f"{where}: holds no image of the split; the reconstruction is empty")
    distinct = sorted(set(cameras), key=repr)
    if len(distinct) == 1:
        return distinct[0]
    sizes = sorted({(camera.width, camera.height) for camera in distinct})
    if len(sizes) > 1:
        shown = ", ".join(f"{w}x{h}" for w, h in sizes[:3])
        raise DataError(
            f"{where}: {len(sizes)} image sizes ({shown}); all must be equal: "
            "keep the images of one camera, or resize and undistort to one size"
        )
    fx, fy, cx, cy = (
        statistics.median(getattr(camera, key) for camera in cameras)
        for key in ("fx", "fy", "cx", "cy")
    )
    spread = max(max(abs(c.fx / fx - 1), abs(c.fy / fy - 1)) for c in distinct)
    if spread > _FOCAL_TOLERANCE:
        raise DataError(
            f"{where}: {len(distinct)} cameras, focal lengths up to {spread:.0%} from "
            f"their median {fx:.1f} px; at most {_FOCAL_TOLERANCE:.0%} is accepted: "
            "keep the images of one camera"
        )
    shift = max(max(abs(c.cx - cx), abs(c.cy - cy)) for c in distinct)
    log.warn(
        f"{where}: {len(distinct)} cameras, focal lengths up to {spread:.1%} and principal points "
        f"up to {shift:.1f} px apart from their medians; using the medians {fx:.1f} px and "
        f"({cx:.1f}, {cy:.1f}) for all"
    )
    return Camera(fx, fy, cx, cy, *sizes[0])


def checked_scene(scene: Scene, split: str, intrinsics: str) -> Scene:
    """The scene itself, once its split, names, images, intrinsics and extent have passed.

    `split` and `intrinsics` name the files that say which frames are train or test, and which
    camera took them.
    """
    for part, frames in (("training", scene.train), ("test", scene.test)):
        if not frames:
            raise DataError(f"{split}: the {part} split is empty; name at least one {part} frame")
    _check_disjoint(scene, split)
    _check_camera(scene.camera, intrinsics)
    for frame in (*scene.train, *scene.test):
        _check_files(frame, scene.camera, intrinsics)
    low, high = bounds((*scene.train, *scene.test))
    if float((high - low).max()) == 0.0:
        raise DataError(
            f"{scene.source}: all cameras stand at one point {low.tolist()}; "
            "the poses were not written, or hold rotations only"
        )
    return scene


def _check_disjoint(scene: Scene, split: str) -> None:
    train = {frame.name for frame in scene.train}
    test = {frame.name for frame in scene.test}
    common = sorted(train & test)
    if common:
        raise DataError(
            f"{split}: {len(common)} frames are in both splits, '{common[0]}' first; "
            "training and test must be disjoint"
        )
    for names, frames in ((train, scene.train), (test, scene.test)):
        if len(names) < len(frames):
            seen: set[str] = set()
            twice = next(f.name for f in frames if f.name in seen or seen.add(f.name))
            raise DataError(
                f"{scene.source}: the frame name '{twice}' occurs twice; "
                "names without suffix must be unique"
            )


def _check_camera(camera: Camera, intrinsics: str) -> None:
    values = (camera.fx, camera.fy, camera.cx, camera.cy)
    if not all(map(math.isfinite, values)) or min(camera.fx, camera.fy) <= 0:
        raise DataError(f"{intrinsics}: {camera}: focal lengths must be positive and finite")
    if min(camera.width, camera.height) < 1 or max(camera.width, camera.height) > _MAX_SIDE_PX:
        raise DataError(
            f"{intrinsics}: an image of {camera.width}x{camera.height} pixels; "
            f"width and height must be at least 1 and at most {_MAX_SIDE_PX}"
        )
    for focal, size in ((camera.fx, camera.width), (camera.fy, camera.height)):
        fov_deg = math.degrees(2 * math.atan(size / (2 * focal)))
        if not _FOV_DEG[0] <= fov_deg <= _FOV_DEG[1]:
            raise DataError(
                f"{intrinsics}: a focal length of {focal:g} px over {size} px is a "
                f"field of view of {fov_deg:.1f} degrees; accepted are "
                f"{_FOV_DEG[0]:g} to {_FOV_DEG[1]:g}; is it for another size?"
            )
    if not (0 <= camera.cx <= camera.width and 0 <= camera.cy <= camera.height):
        raise DataError(
            f"{intrinsics}: the principal point ({camera.cx:g}, {camera.cy:g}) lies "
            f"outside the {camera.width}x{camera.height} image"
        )


def _check_files(frame: Frame, camera: Camera, intrinsics: str) -> None:
    for kind, file in (("image", frame.image), ("depth map", frame.depth)):
        if file is None:
            continue
        size = image_size(file) if isinstance(file, Path) else (file.shape[1], file.shape[0])
        if size != (camera.width, camera.height):
            name = file if isinstance(file, Path) else frame.name
            raise DataError(
                f"{name}: the {kind} has {size[0]}x{size[1]} pixels, {intrinsics} says "
                f"{camera.width}x{camera.height}; all must be equal"
            )


def _lfs_error(path: Path) -> DataError:
    return DataError(f"{path}: a Git-LFS pointer, not the file itself; run `git lfs pull` there")
