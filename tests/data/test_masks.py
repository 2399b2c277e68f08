"""Masks: black does not count, sizes are adapted, and readers find them where tools put them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rap.camera import Camera
from rap.data import colmap, transforms
from rap.data.masks import decode_masks
from rap.scene import DataError, Frame
from tests.data.folders import plain_name, small_scene, write_colmap, write_transforms

CAMERA = Camera(4.0, 4.0, 2.0, 1.0, 4, 2)


def frame(mask: Path | np.ndarray | None) -> Frame:
    size = mask.shape if isinstance(mask, np.ndarray) else (2, 4)
    image = np.zeros((*size, 3), dtype=np.uint8)
    return Frame("a", torch.eye(4, dtype=torch.float64), image, mask=mask)


def test_no_masks_are_none() -> None:
    """Nothing is stored where nothing is masked."""
    assert decode_masks([frame(None), frame(None)], CAMERA) is None


def test_black_does_not_count(tmp_path: Path) -> None:
    """Files and arrays say the same; a frame without a mask counts everywhere."""
    mask = np.array([[1, 1, 0, 1], [1, 0, 0, 1]], dtype=bool)
    path = tmp_path / "mask.png"
    Image.fromarray(mask.astype(np.uint8) * 200).save(path)
    masks = decode_masks([frame(path), frame(mask), frame(None)], CAMERA)
    assert masks is not None
    assert masks[0].tolist() == masks[1].tolist() == mask.tolist()
    assert masks[2].all()


def test_a_pixel_that_is_masked_in_part_does_not_count() -> None:
    """A mask of twice the size: one black pixel of four is enough."""
    mask = np.ones((4, 8), dtype=bool)
    mask[3, 5] = False
    masks = decode_masks([frame(mask)], CAMERA)
    assert masks is not None
    assert (~masks[0]).nonzero().tolist() == [[1, 2]]


def test_a_broken_mask_is_named(tmp_path: Path) -> None:
    """The error says which file."""
    path = tmp_path / "mask.png"
    path.write_text("no image")
    with pytest.raises(DataError, match=r"mask\.png: not a readable mask"):
        decode_masks([frame(path)], CAMERA)


def test_colmap_masks_are_found_by_the_name_of_their_image(tmp_path: Path) -> None:
    """`masks/NAME.png.png`, as COLMAP has it; others have none."""
    write_colmap(tmp_path, binary=True)
    name = plain_name(small_scene().train[1])
    path = tmp_path / "masks" / f"{name}.png.png"
    path.parent.mkdir(parents=True)
    Image.new("L", (32, 24), 255).save(path)
    masks = [found.mask for found in colmap.read(tmp_path).train]
    assert masks == [None, path, None, None, None, None]


def test_transforms_name_their_masks(tmp_path: Path) -> None:
    """`mask_path` as nerfstudio writes it; a missing file is refused."""
    write_transforms(tmp_path)
    listing = tmp_path / "transforms_train.json"
    content = json.loads(listing.read_text())
    content["frames"][0]["mask_path"] = "masks/0.png"
    listing.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"mask_path 'masks/0\.png'; it must be the path"):
        transforms.read(tmp_path)
    (tmp_path / "masks").mkdir()
    Image.new("L", (32, 24), 255).save(tmp_path / "masks/0.png")
    masks = [found.mask for found in transforms.read(tmp_path).train]
    assert masks == [tmp_path / "masks/0.png", None, None, None, None, None]
