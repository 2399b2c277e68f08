"""Which pixels of photographs count: masks at the size of a camera."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from rap.camera import Camera
from rap.scene import DataError, Frame

_WHITE = 128


def decode_masks(
    frames: Sequence[Frame], camera: Camera, num_workers: int = 4
) -> Bool[Tensor, "n h w"] | None:
    """False where a mask is black; None where no frame has a mask, all true for a frame without.

    Black is what COLMAP and nerfstudio leave out. Raises DataError for a mask that is no image.
    """
    if all(frame.mask is None for frame in frames):
        return None
    with ThreadPoolExecutor(max(num_workers, 1)) as executor:
        return torch.stack(list(executor.map(partial(_sampled, camera=camera), frames)))


def _sampled(frame: Frame, camera: Camera) -> Bool[Tensor, "h w"]:
    if frame.mask is None:
        return torch.ones(camera.height, camera.width, dtype=torch.bool)
    mask = _read(frame.mask) if isinstance(frame.mask, Path) else frame.mask
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    # a pixel that is masked in part does not count
    image = image.resize((camera.width, camera.height), Image.Resampling.BOX)
    return torch.from_numpy(np.array(image) == 255)


def _read(path: Path) -> Bool[np.ndarray, "h w"]:
    try:
        with Image.open(path) as file:
            return np.array(file.convert("L")) >= _WHITE
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable mask: {error}; copy it again") from error
