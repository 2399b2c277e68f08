"""Estimated poses in files that other tools read and write.

`.pose.txt` holds a row-major `world_from_camera` (7-Scenes). TUM lines are `timestamp tx ty tz qx
qy qz qw`, world_from_camera; our timestamps are indices of test frames. COLMAP's `images.txt` and
visloc lines (`name qw qx qy qz tx ty tz ...`, as ACE and the 7-Scenes pseudo ground truth write
them) hold camera_from_world. Where every line begins with a number that is a frame's name, it is
visloc's, unless the file's name ends in `.tum`. A frame without a usable estimate is left out of a
file.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from rap import geometry
from rap.data.validate import is_number
from rap.log import replacing
from rap.scene import DataError

ACCEPTED = (
    "a folder of NAME.pose.txt files, or a text file of TUM lines (timestamp tx ty tz qx qy qz qw),"
    " COLMAP's images.txt, or lines `name qw qx qy qz tx ty tz ...`"
)

Pose = Float64[Tensor, "4 4"]


def read_estimates(path: Path, names: Sequence[str]) -> Float64[Tensor, "n 4 4"]:
    """`world_from_camera` for the frames `names`, nan where the file has no estimate.

    Names match with or without image suffixes; estimates of other frames are ignored. Raises
    DataError for a file that cannot be read, a frame estimated twice, and no match at all.
    """
    found = read_poses(path, names)
    known = set(names)
    estimates: dict[str, Pose] = {}
    for given, pose in found:
        name = next((spelt for spelt in _spellings(given) if spelt in known), None)
        if name in estimates:
            raise DataError(f"{path}: {name} is estimated twice; each frame may occur once")
        if name is not None:
            estimates[name] = pose
    if not estimates:
        example = f"it names {found[0][0]}" if found else "it holds no pose"
        raise DataError(f"{path}: no estimate for any test frame; {example}, the frames are named "
                        f"like {names[0] if names else '(no frames)'}")  # fmt: skip
    missing = torch.full((4, 4), torch.nan, dtype=torch.float64)
    return torch.stack([estimates.get(name, missing) for name in names])


def read_poses(path: Path, stamped: Sequence[str] | None = None) -> list[tuple[str, Pose]]:
    """All names and `world_from_camera` in a folder of `.pose.txt` files or in one file.

    TUM lines are named by their timestamp; with `stamped`, by the name that it is the index of.
    Raises DataError for a file that cannot be read.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.pose.txt"))
        names = [file.relative_to(path).as_posix() for file in files]
    elif path.name.endswith(".pose.txt"):
        files, names = [path], [path.name]
    else:
        return _read_file(path, stamped)
    return [
        (name.removesuffix(".pose.txt"), _read_matrix(file))
        for name, file in zip(names, files, strict=True)
    ]


def write_pose_files(
    folder: Path, names: Sequence[str], world_from_camera: Float64[Tensor, "n 4 4"]
) -> None:
    """`folder/NAME.pose.txt` for every finite pose; DataError for a name that leaves the folder."""
    for index in _finite(world_from_camera):
        path = folder / f"{names[index]}.pose.txt"
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{names[index]}: a frame's name must not lead out of {folder}")
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [f"{_join(row)}\n" for row in world_from_camera[index].tolist()]
        _write(path, "".join(rows))


def tum_text(world_from_camera: Float64[Tensor, "n 4 4"]) -> str:
    """One TUM line for every finite pose; the timestamp is the pose's index."""
    lines = []
    for index in _finite(world_from_camera):
        quat, centre = _quaternion_and_translation(world_from_camera[index])
        w, *xyz = quat
        lines.append(f"{index} {_join([*centre, *xyz, w])}\n")
    return "".join(lines)


def json_text(names: Sequence[str], world_from_camera: Float64[Tensor, "n 4 4"]) -> str:
    """A JSON list with name, matrix, camera centre and quaternion of every finite pose."""
    records = []
    for index in _finite(world_from_camera):
        pose = world_from_camera[index]
        quat, centre = _quaternion_and_translation(pose)
        matrix = pose.tolist()
        records.append({"name": names[index], "world_from_camera": matrix,
                        "translation_m": centre, "quaternion_wxyz": quat})  # fmt: skip
    return json.dumps(records, indent=1) + "\n"


def write_tum(path: Path, world_from_camera: Float64[Tensor, "n 4 4"]) -> None:
    """A file of TUM lines."""
    _write(path, tum_text(world_from_camera))


def write_colmap(
    path: Path, file_names: Sequence[str], world_from_camera: Float64[Tensor, "n 4 4"]
) -> None:
    """COLMAP's `images.txt` without 2D points, one camera, an entry for every finite pose."""
    rows = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME (camera_from_world), no 2D points\n"]
    camera_from_world = geometry.invert(world_from_camera)
    for index in _finite(world_from_camera):
        quat, translation = _quaternion_and_translation(camera_from_world[index])
        rows.append(f"{index + 1} {_join([*quat, *translation])} 1 {file_names[index]}\n\n")
    _write(path, "".join(rows))


def _read_matrix(path: Path) -> Pose:
    words = _text(path).split()
    if len(words) not in (12, 16):
        raise DataError(f"{path}: holds {len(words)} numbers; a pose has 4 rows of 4")
    values = torch.tensor(_numbers(words, str(path)), dtype=torch.float64).view(-1, 4)
    return geometry.rigid(values[:3, :3], values[:3, 3])


def _read_file(path: Path, stamped: Sequence[str] | None) -> list[tuple[str, Pose]]:
    lines = enumerate(_text(path).splitlines(), start=1)
    rows = [(number, line.split()) for number, line in lines if not line.startswith("#")]
    filled = [(number, words) for number, words in rows if words]
    if not filled:
        return []
    first = filled[0][1]
    named = path.suffix != ".tum" and {words[0] for _, words in filled} <= set(stamped or ())
    if len(first) == 8 and is_number(first[0]) and not named:
        return [_tum(path, number, words, stamped) for number, words in filled]
    if len(first) == 10 and first[0].isdecimal():
        # Every second line holds 2D points and may be empty, so empty lines count here.
        images = [(number, words) for number, words in rows[::2] if words]
        return [_posed(path, number, words[-1], words[1:8]) for number, words in images]
    if len(first) >= 8 and (named or not is_number(first[0])):
        return [_posed(path, number, words[0], words[1:8]) for number, words in filled]
    raise DataError(
        f"{path}: line {filled[0][0]} is '{' '.join(first)[:60]}'; accepted: {ACCEPTED}"
    )


def _tum(
    path: Path, number: int, words: list[str], stamped: Sequence[str] | None
) -> tuple[str, Pose]:
    where = f"{path}: line {number}"
    values = _numbers(words, where)
    if len(values) != 8:
        raise DataError(f"{where}: holds {len(values)} numbers; a TUM line has 8")
    stamp, tx, ty, tz, qx, qy, qz, qw = values
    pose = _pose([qw, qx, qy, qz], [tx, ty, tz])
    if stamped is None:
        return words[0], pose
    if stamp not in range(len(stamped)):
        raise DataError(f"{where}: timestamp {words[0]}; accepted are the indices of the test "
                        f"frames, 0 to {len(stamped) - 1}")  # fmt: skip
    return stamped[int(stamp)], pose


def _posed(path: Path, number: int, name: str, words: list[str]) -> tuple[str, Pose]:
    """A name and the inverse of a camera_from_world written as wxyz quaternion, translation."""
    values = _numbers(words, f"{path}: line {number}")
    if len(values) != 7:
        raise DataError(f"{path}: line {number}: {name} has {len(values)} numbers, expected 7 "
                        "(qw qx qy qz tx ty tz)")  # fmt: skip
    return name, geometry.invert(_pose(values[:4], values[4:]))


def _pose(quaternion: list[float], translation: list[float]) -> Pose:
    """A rigid transform, nan where the quaternion has no direction."""
    quat = torch.tensor(quaternion, dtype=torch.float64)
    if torch.linalg.vector_norm(quat) < 1e-6:
        quat = torch.full((4,), torch.nan, dtype=torch.float64)
    rotation = geometry.rotation_from_quaternion(quat)
    return geometry.rigid(rotation, torch.tensor(translation, dtype=torch.float64))


def _spellings(name: str) -> list[str]:
    """The name as given, without its last suffix, and without all suffixes."""
    folder, slash, file = name.rpartition("/")
    return [name, folder + slash + file.rpartition(".")[0], folder + slash + file.split(".")[0]]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as text ({error}); accepted: {ACCEPTED}"
        ) from error


def _numbers(words: Iterable[str], where: str) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: {error}; accepted: {ACCEPTED}") from error


def _finite(poses: Float64[Tensor, "n 4 4"]) -> list[int]:
    return torch.isfinite(poses).all(-1).all(-1).nonzero().flatten().tolist()


def _quaternion_and_translation(pose: Pose) -> tuple[list[float], list[float]]:
    return geometry.quaternion_from_rotation(pose[:3, :3]).tolist(), pose[:3, 3].tolist()


def _join(values: Iterable[float]) -> str:
    return " ".join(f"{value:.12g}" for value in values)


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
