"""Scenes on disk, and the procedural room, as one `Scene`."""

from collections.abc import Callable
from pathlib import Path

from rap import log
from rap.data import cambridge, colmap, room, seven_scenes, transforms
from rap.data.room import RoomSpec
from rap.scene import DataError, Scene

_Detect = Callable[[Path], bool]
_Read = Callable[[Path], Scene]

FORMATS: dict[str, tuple[_Detect, _Read]] = {
    "seven_scenes": (seven_scenes.detect, seven_scenes.read),
    "cambridge": (cambridge.detect, cambridge.read),
    "colmap": (colmap.detect, colmap.read),
    "transforms": (transforms.detect, transforms.read),
}
"""Each format's detector and reader; where a folder fits several, the first is taken."""


def load(path: str | Path, format: str | None = None) -> Scene:  # noqa: A002 (the word for it)
    """A scene from a folder, or the procedural room for the word "room".

    The format is recognised where none is given. Raises `DataError` where the scene cannot be
    used: the message names the file, the value and the fix.
    """
    if str(path) == "room":
        return room.make(RoomSpec())
    if format is not None and format not in FORMATS:
        raise DataError(f"format {format!r} is unknown; accepted are {', '.join(FORMATS)}")
    root = Path(path)
    if not root.is_dir():
        fault = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{root}: {fault}; give a scene's folder, or the word 'room'")
    if format is not None:
        return FORMATS[format][1](root)
    fitting = [name for name, (detect, _) in FORMATS.items() if detect(root)]
    if not fitting:
        raise DataError(
            f"{root}: no known scene format; expected TrainSplit.txt (7-Scenes), train/rgb or "
            "dataset_train.txt (Cambridge), sparse/0 (COLMAP), or transforms.json"
        )
    if len(fitting) > 1 and fitting != ["seven_scenes", "colmap"]:
        # 7-Scenes folders often carry the same cameras as a COLMAP model
        others = " or ".join(fitting[1:])
        log.info(f"{root}: read as {fitting[0]}; name the format to read it as {others}")
    return FORMATS[fitting[0]][1](root)
