"""Cambridge Landmarks, as prepared for pose regressors or as published.

Prepared: `{train,test}/rgb/*` with `{train,test}/poses/*.txt` (camera-to-world, OpenCV axes,
metres). Published (Kendall et al., ICCV 2015): `dataset_{train,test}.txt` with a camera centre and
a camera-from-world quaternion (wxyz) per image, and `reconstruction.nvm` with focal lengths and
points. The prepared layout is taken where both are there. The slight radial distortion that the
.nvm estimates is ignored, as in every number reported on this data. Prepared photographs are
smaller than the 1920x1080 that its focal lengths are for.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from rap import geometry, log
from rap.camera import Camera
from rap.data.validate import (
    IMAGE_SUFFIXES,
    checked_poses,
    checked_scene,
    floats,
    image_size,
    read_camera,
    read_text,
)
from rap.scene import DataError, Frame, Points, Scene

_PUBLISHED_SIZE = (1920, 1080)
_CUSTOMARY_FOCAL, _CUSTOMARY_SIDE = 744.0, 480
_FOCAL_TOLERANCE = 0.05
_OUTLIER_M = 1e4
# Two photographs of ShopFacade have wrong poses; published results leave them out, too.
_BAD_IN_SHOP = {"seq2_frame00036", "seq2_frame00043"}


@dataclass(frozen=True)
class Nvm:
    """What VisualSFM's `reconstruction.nvm` adds: focal lengths by name without suffix, points."""

    focal_px: dict[str, float]
    points: Points | None


def detect(root: Path) -> bool:
    """Whether the folder has either of the two layouts."""
    return (root / "train" / "rgb").is_dir() or (root / "dataset_train.txt").exists()


def read(root: Path) -> Scene:
    """The scene in a Cambridge folder; `DataError` where it cannot be used."""
    path = root / "reconstruction.nvm"
    nvm = read_nvm(path) if path.exists() else None
    if (root / "train" / "rgb").is_dir():
        train, test = (_prepared(root / part) for part in ("train", "test"))
        split = f"{root}/train/rgb, test/rgb"
    else:
        train, test = (_published(root / f"dataset_{part}.txt", nvm) for part in ("train", "test"))
        split = f"{root}/dataset_train.txt, dataset_test.txt"
    camera, intrinsics = _camera(root, [*train, *test], nvm)
    scene = Scene(
        name=root.name,
        source=f"Cambridge folder {root}",
        camera=camera,
        train=tuple(train),
        test=tuple(test),
        points=nvm.points if nvm else None,
    )
    return checked_scene(scene, split, intrinsics)


def read_nvm(path: Path) -> Nvm:
    """Focal lengths and points of an NVM_V3 file (ccwu.me/vsfm/doc.html#nvm)."""
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if not lines or not lines[0].startswith("NVM_V3"):
        raise DataError(f"{path}: does not begin with NVM_V3")
    cameras, rest = _section(path, lines[1:], "cameras")
    points, _ = _section(path, rest, "points")
    focal_px = {}
    for line in cameras:
        name, *words = line.split()
        where = f"{path}: camera {name}"
        focal_px[_stem(name)] = floats(" ".join(words[:1]), 1, where)[0]
    rows = [floats(" ".join(line.split(maxsplit=6)[:6]), 6, f"{path}: a point") for line in points]
    if not rows:
        return Nvm(focal_px, None)
    table = torch.tensor(rows, dtype=torch.float64)
    return Nvm(focal_px, Points(table[:, :3].float(), table[:, 3:].to(torch.uint8)))


def _section(path: Path, lines: list[str], what: str) -> tuple[list[str], list[str]]:
    """The lines of a section that begins with their number, and the lines after it."""
    if not lines or not lines[0].strip().isdigit():
        raise DataError(f"{path}: the number of {what} is missing; the file is truncated")
    num = int(lines[0])
    if len(lines) <= num:
        raise DataError(f"{path}: {len(lines) - 1} of {num} {what}; the file is truncated")
    return lines[1 : num + 1], lines[num + 1 :]


def _stem(name: str) -> str:
    """Images are .png in the lists and .jpg in the .nvm; folders may have become a prefix."""
    return str(PurePosixPath(name).with_suffix("")).replace("/", "_")


def _prepared(folder: Path) -> list[Frame]:
    images = {p.stem: p for p in sorted((folder / "rgb").glob("*")) if p.suffix in IMAGE_SUFFIXES}
    poses = {p.stem: p for p in (folder / "poses").glob("*.txt")}
    for stem in sorted(images.keys() ^ poses.keys()):
        missing = f"poses/{stem}.txt" if stem in images else f"rgb/{stem}.png"
        raise DataError(f"{folder / missing}: no such file; restore it, or remove {stem} wholly")
    stems = _without_bad(sorted(images), folder.parent)
    where = [str(poses[stem]) for stem in stems]
    matrices = [floats(read_text(poses[stem]), 16, str(poses[stem])) for stem in stems]
    world_from_camera = checked_poses(np.array(matrices).reshape(-1, 4, 4), where)
    return [
        Frame(stem, pose, images[stem], pose_file=poses[stem])
        for stem, pose in zip(stems, world_from_camera, strict=True)
    ]


def _published(path: Path, nvm: Nvm | None) -> list[Frame]:
    lines = read_text(path).splitlines()
    body = lines[3:] if lines and lines[0].startswith("Visual Landmark") else lines
    entries: dict[str, list[float]] = {}
    for line in body:
        if line.strip():
            name, _, numbers = line.strip().partition(" ")
            entries[name] = floats(numbers, 7, f"{path}: {name}")
    kept = [
        name
        for name, (x, y, z, *_) in entries.items()
        if max(abs(x), abs(y), abs(z)) <= _OUTLIER_M
        and (nvm is None or _stem(name) in nvm.focal_px)
    ]
    if len(kept) < len(entries):
        log.info(
            f"{path}: {len(entries) - len(kept)} of {len(entries)} images left out; "
            "the reconstruction did not place them"
        )
    by_stem = {_stem(name): name for name in kept}
    names = [by_stem[stem] for stem in _without_bad(list(by_stem), path.parent)]
    values = torch.tensor([entries[name] for name in names], dtype=torch.float64).reshape(-1, 7)
    where = [f"{path}: {name}" for name in names]
    poses = checked_poses(_from_centre_and_quaternion(values).numpy(), where)
    return [
        Frame(
            str(PurePosixPath(name).with_suffix("")),
            pose,
            _existing(path.parent / name),
            pose_file=path,
        )
        for name, pose in zip(names, poses, strict=True)
    ]


def _from_centre_and_quaternion(values: Float64[Tensor, "n 7"]) -> Float64[Tensor, "n 4 4"]:
    """`world_from_camera`; a zero quaternion becomes nan, which the pose check refuses."""
    centre, quaternion = values[:, :3], values[:, 3:]
    length = torch.linalg.vector_norm(quaternion, dim=-1, keepdim=True)
    camera_from_world = geometry.rotation_from_quaternion(
        torch.where(length > 1e-6, quaternion, torch.nan)
    )
    return geometry.rigid(camera_from_world.mT, centre)


def _existing(image: Path) -> Path:
    """The listed .png, or the same photograph with another suffix."""
    candidates = (image, *(image.with_suffix(suffix) for suffix in IMAGE_SUFFIXES))
    return next((path for path in candidates if path.exists()), image)


def _without_bad(stems: list[str], root: Path) -> list[str]:
    bad = _BAD_IN_SHOP & set(stems) if "shop" in root.name.lower() else set()
    if bad:
        log.info(f"{root}: {', '.join(sorted(bad))} left out, their poses are known to be wrong")
    return [stem for stem in stems if stem not in bad]


def _camera(root: Path, frames: Sequence[Frame], nvm: Nvm | None) -> tuple[Camera, str]:
    """Intrinsics, and where they come from: camera.json, calibration files, .nvm or custom."""
    path = root / "camera.json"
    if path.exists():
        return read_camera(path), str(path)
    image = frames[0].image if frames else None
    width, height = image_size(image) if isinstance(image, Path) else _PUBLISHED_SIZE
    files = sorted((root / "train" / "calibration").glob("*.txt"))
    if files:
        where = files[0].parent
        focal = _median([_calibrated_focal(file) for file in files], where)
        return _centred(focal, width, height), str(where)
    stems = [_stem(frame.name) for frame in frames]
    known = [nvm.focal_px[stem] for stem in stems if stem in nvm.focal_px] if nvm else []
    if known:
        path = root / "reconstruction.nvm"
        prepared = (root / "train" / "rgb").is_dir()
        size = _PUBLISHED_SIZE if prepared else (width, height)
        return _centred(_median(known, path), *size).resized(width, height), str(path)
    focal = _CUSTOMARY_FOCAL * min(width, height) / _CUSTOMARY_SIDE
    log.warn(
        f"{root}: no camera.json, train/calibration or reconstruction.nvm; assuming the "
        f"customary focal length of {focal:.0f} px for {width}x{height}"
    )
    return _centred(focal, width, height), "the customary camera"


def _centred(focal: float, width: int, height: int) -> Camera:
    return Camera(focal, focal, width / 2, height / 2, width, height)


def _calibrated_focal(path: Path) -> float:
    """One focal length, or a 3x3 calibration matrix that begins with it."""
    words = read_text(path).split()
    return floats(" ".join(words), 9 if len(words) > 1 else 1, str(path))[0]


def _median(focals: list[float], where: Path) -> float:
    """The median focal length; each photograph has its own estimate, mostly within a percent."""
    focal = statistics.median(focals)
    off = sum(abs(value / focal - 1) > _FOCAL_TOLERANCE for value in focals)
    if off:
        log.warn(
            f"{where}: {off} of {len(focals)} focal lengths are more than "
            f"{_FOCAL_TOLERANCE:.0%} from their median {focal:.1f} px, used for all"
        )
    return focal
