"""Whether every file of a scene can be decoded; its readers look at headers only."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rap import log
from rap.camera import Camera
from rap.data.images import check_decodable, ordered
from rap.data.masks import decode_masks
from rap.data.reprojection import depth_map
from rap.scene import DataError, Frame

_ONE_PIXEL = Camera(1.0, 1.0, 0.5, 0.5, 1, 1)


def faults(frames: Sequence[Frame], num_workers: int = 4) -> dict[str, str]:
    """The first fault of each frame with a broken photograph, depth map or mask, by its name.

    Decodes every file, with progress; `num_workers` threads do, 0 stands for the calling one.
    """
    found = {}
    with (
        log.progress("decode files", len(frames), "frames") as tick,
        closing(ordered(_fault, frames, num_workers, ahead=4 * num_workers)) as done,
    ):
        for frame, fault in zip(frames, done, strict=True):
            tick()
            if fault is not None:
                found[frame.name] = fault
    return found


def _fault(frame: Frame) -> str | None:
    try:
        if isinstance(frame.image, Path):
            check_decodable(frame)
        if isinstance(frame.depth, Path):
            depth_map(frame)
        if isinstance(frame.mask, Path):
            decode_masks([frame], _ONE_PIXEL, num_workers=1)
    except DataError as error:
        return str(error)
    return None
