"""Files of tensors that may be anything: read without running code, refused in words of our own.

What torch says of a file that it does not trust is the advice to trust it; it is never repeated.
"""

import pickle
import re
import struct
import zipfile
from pathlib import Path

import torch

_LFS = b"version https://git-lfs.github.com/spec/"
_DAMAGED = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError, struct.error,
)  # fmt: skip
"""What torch raises for an archive that is cut short or altered."""


class UnreadableError(ValueError):
    """A file that is not what was looked for; the message says what it is instead, not its name."""


def read_torch(path: Path, device: torch.device | str) -> object:
    """What torch.save wrote, which is data alone: no code in it is ever run.

    Raises OSError for a file that cannot be opened, UnreadableError for any other.
    """
    with path.open("rb") as file:
        archive = zipfile.is_zipfile(file)
    if not archive:
        raise UnreadableError(what_it_is(path) or "no zip archive, which PyTorch saves")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise UnreadableError(
            f"it holds more than tensors and numbers{what}, which could run code and is not loaded"
        ) from error
    except _DAMAGED as error:
        raise UnreadableError("cut short, altered, or not saved by PyTorch") from error


def what_it_is(path: Path) -> str:
    """Of a file that has a wrong format: what it evidently is; empty where that is not evident."""
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    if not start:
        return "an empty file"
    if start == _LFS:
        return "a Git-LFS pointer, not the file that it stands for: fetch that with `git lfs pull`"
    return ""
