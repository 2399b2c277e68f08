"""Depth maps at the size of a camera: taken at pixel centres, unknown stays unknown."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rap.camera import Camera
from rap.data.depths import decode_depths
from rap.scene import Frame

CAMERA = Camera(4.0, 4.0, 2.0, 1.0, 4, 2)


def frame(depth: Path | np.ndarray | None) -> Frame:
    size = depth.shape if isinstance(depth, np.ndarray) else (2, 4)
    image = np.zeros((*size, 3), dtype=np.uint8)
    return Frame("a", torch.eye(4, dtype=torch.float64), image, depth)


def test_no_depth_is_none() -> None:
    """Nothing is stored where no frame has depth."""
    assert decode_depths([frame(None)], CAMERA) is None


def test_files_and_arrays_say_the_same(tmp_path: Path) -> None:
    """Millimetres become metres, 65535 and missing maps are 0."""
    millimetres = np.array([[1000, 2500, 0, 65535], [40, 9999, 1, 3000]], dtype=np.uint16)
    path = tmp_path / "depth.png"
    Image.fromarray(millimetres).save(path)
    metres = np.where(millimetres < 65535, millimetres / 1000, 0).astype(np.float32)
    depths = decode_depths([frame(path), frame(metres), frame(None)], CAMERA)
    assert depths is not None
    assert torch.equal(depths[0], depths[1])
    torch.testing.assert_close(depths[0].float(), torch.from_numpy(metres), rtol=5e-4, atol=1e-6)
    assert not depths[2].any()


def test_depth_is_never_mixed_across_an_edge() -> None:
    """Of a map of three times the size each pixel takes the middle of its nine."""
    depth = np.full((6, 12), 9.0, dtype=np.float32)
    depth[1::3, 1::3] = np.arange(8).reshape(2, 4) + 1
    depths = decode_depths([frame(depth)], CAMERA)
    assert depths is not None
    assert depths[0].flatten().tolist() == list(range(1, 9))
