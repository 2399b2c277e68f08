"""Decoded images on disk, keyed by the content that they were decoded from.

An entry is one safetensors file per set of images. Its name is a hash of the source bytes, the size
and this version, so a changed photograph never meets an old entry; a checksum finds damaged ones.
The folder may be deleted at any time.
"""

import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rap import log

# Raise it whenever the same bytes would be decoded to other pixels.
DECODER_VERSION = 1


def entry(folder: Path, digests: Iterable[bytes], width: int, height: int) -> Path:
    """The cache file of images with these content hashes, in this order, decoded to this size."""
    key = hashlib.sha256(f"{DECODER_VERSION} {width}x{height}".encode())
    for digest in digests:
        key.update(digest)
    return folder / f"images-{key.hexdigest()[:32]}.safetensors"


def load(path: Path, shape: tuple[int, int, int, int]) -> UInt8[Tensor, "n 3 h w"] | None:
    """The cached images, or None where there are none; a damaged entry is None with a warning."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            images = file.get_tensor("images").clone()
            expected = (file.metadata() or {}).get("crc32")
    # RuntimeError is torch's, which opens the file anew: it has just been removed.
    except (SafetensorError, OSError, RuntimeError) as error:
        log.warn(f"{path}: damaged cache entry ({error}); decoding again")
        return None
    if images.dtype != torch.uint8 or images.shape != shape or _checksum(images) != expected:
        log.warn(f"{path}: damaged cache entry (content does not match); decoding again")
        return None
    return images


def store(path: Path, images: UInt8[Tensor, "n 3 h w"]) -> None:
    """Keep decoded images; a folder that cannot be written costs a warning, not the run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with log.replacing(path) as temporary:
            save_file({"images": images}, temporary, metadata={"crc32": _checksum(images)})
    except (SafetensorError, OSError) as error:
        log.warn(f"{path}: decoded images could not be cached: {error}")


def _checksum(images: UInt8[Tensor, "n 3 h w"]) -> str:
    return f"{zlib.crc32(images.numpy().data):08x}"
