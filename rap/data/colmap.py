"""COLMAP folders: `images/` beside `sparse/0/{cameras,images,points3D}.{bin,txt}`.

Masks are where COLMAP looks for them: `masks/NAME.jpg.png` for `images/NAME.jpg`.

The split comes from the first of: `train.txt` + `test.txt` (names; the rest is left out),
`list_test.txt` (names; the rest trains), a `*.tsv` with columns filename and split, or else every
8th name is a test frame.
"""

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rap import geometry, log
from rap.data import colmap_model
from rap.data.colmap_model import ImageEntry
from rap.data.validate import checked_poses, checked_scene, one_camera, read_text
from rap.scene import DataError, Frame, Scene

_TEST_EVERY = 8


def detect(root: Path) -> bool:
    """Whether there is a sparse model in `sparse/0`, `sparse` or the folder itself."""
    return colmap_model.find_model(root) is not None


def read(root: Path) -> Scene:
    """The scene in a COLMAP folder; `DataError` where it cannot be used."""
    folder = colmap_model.find_model(root)
    if folder is None:
        raise DataError(f"{root}: no images.bin or images.txt in sparse/0, sparse or here")
    model = colmap_model.read_model(folder)
    if not model.images:
        raise DataError(f"{model.images_file}: holds no image; the reconstruction is empty")
    names = sorted(entry.name for entry in model.images)
    train, test, split = split_names(root, names, str(model.images_file))
    by_name = {entry.name: entry for entry in model.images}
    used = [by_name[name] for name in (*train, *test)]
    cameras = [model.cameras[entry.camera_id] for entry in used]
    camera = one_camera(cameras, model.cameras_file)
    frames = _frames(used, root, model.images_file)
    scene = Scene(
        name=root.name,
        source=f"COLMAP model {folder}",
        camera=camera,
        train=tuple(frames[: len(train)]),
        test=tuple(frames[len(train) :]),
        points=colmap_model.find_points(root),
    )
    return checked_scene(scene, split, str(model.cameras_file))


def split_names(root: Path, names: Sequence[str], listed: str) -> tuple[list[str], list[str], str]:
    """Training names, test names, and the file that split them, of `names` listed in a model.

    Names in a split file that the model lacks are counted and left out: COLMAP does not always
    find the pose of every photograph.
    """
    both = (root / "train.txt", root / "test.txt")
    if all(path.exists() for path in both):
        train, test = (_listed(path, names, listed) for path in both)
        return train, test, f"{both[0]}, test.txt"
    path = root / "list_test.txt"
    if path.exists():
        test = _listed(path, names, listed)
        return [name for name in names if name not in set(test)], test, str(path)
    tables = sorted(root.glob("*.tsv"))
    if tables:
        return *_from_table(tables[0], names, listed), str(tables[0])
    test = list(names[::_TEST_EVERY])
    train = [name for index, name in enumerate(names) if index % _TEST_EVERY]
    return train, test, f"{listed} (no split file: every {_TEST_EVERY}th name is a test frame)"


def _frames(entries: list[ImageEntry], root: Path, file: Path) -> list[Frame]:
    folder = root / "images" if (root / "images").is_dir() else root
    camera_from_world = colmap_model.camera_from_world(entries)
    where = [f"{file}: {entry.name}" for entry in entries]
    world_from_camera = geometry.invert(checked_poses(camera_from_world.numpy(), where))
    return [
        Frame(
            str(PurePosixPath(entry.name).with_suffix("")),
            pose,
            folder / entry.name,
            mask=_mask(root, entry.name),
            pose_file=file,
        )
        for entry, pose in zip(entries, world_from_camera, strict=True)
    ]


def _mask(root: Path, name: str) -> Path | None:
    path = root / "masks" / f"{name}.png"
    return path if path.exists() else None


def _listed(path: Path, names: Sequence[str], listed: str) -> list[str]:
    wanted = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    return known_names(path, wanted, names, listed)


def known_names(path: Path, wanted: list[str], names: Sequence[str], listed: str) -> list[str]:
    """The wanted names that a model has; `DataError` where it has none, a line where some."""
    known = set(names)
    found = [name for name in wanted if name in known]
    missing = [name for name in wanted if name not in known]
    if missing and not found:
        raise DataError(
            f"{path}: none of its {len(missing)} names is in {listed}, "
            f"'{missing[0]}' first; write them as there, such as '{names[0]}'"
        )
    if missing:
        log.info(
            f"{path}: {len(missing)} of {len(wanted)} names have no pose in {listed} "
            f"('{missing[0]}' first) and are left out"
        )
    return found


def _from_table(path: Path, names: Sequence[str], listed: str) -> tuple[list[str], list[str]]:
    rows = list(csv.DictReader(read_text(path).splitlines(), delimiter="\t"))
    if not rows or not {"filename", "split"} <= rows[0].keys():
        raise DataError(f"{path}: expected tab-separated columns 'filename' and 'split'")
    parts = {
        part: [row["filename"] for row in rows if row["filename"] and row["split"] == part]
        for part in ("train", "test")
    }
    return known_names(path, parts["train"], names, listed), known_names(
        path, parts["test"], names, listed
    )
