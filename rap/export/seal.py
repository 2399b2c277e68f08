"""A digest of a file's content inside the file, so that damage and edits are noticed.

The digest is SHA-256 of all bytes of the file, its own 64 characters taken as zeros. An .onnx has
it among its metadata, a .pt2 as the comment of its archive. It finds accidents, such as a flipped
byte or a changed camera; it is no signature: who changes a file on purpose can write a new one.
"""

import hashlib
from pathlib import Path

from rap.export.details import ExportError

_MARK = b"rap-sha256:"
_ZEROS = b"0" * 64

BLANK = (_MARK + _ZEROS).decode()
"""What a file must hold exactly once, anywhere, before it is sealed."""


def seal(path: Path) -> None:
    """Write the digest over the file's `BLANK`."""
    content = path.read_bytes()
    start = _start(content)
    assert start is not None
    with path.open("r+b") as file:
        file.seek(start)
        file.write(_digest(content, start))


def check_seal(path: Path) -> None:
    """Raise ExportError unless the file is what `seal` left."""
    content = path.read_bytes()
    start = _start(content)
    if start is None or content[start : start + len(_ZEROS)] != _digest(content, start):
        raise ExportError(
            f"{path}: edited or damaged since `rap export` wrote it: its content does not fit its "
            "digest; export it again"
        )


def is_sealed(path: Path) -> bool:
    """Whether the file is one that `seal` has seen, whatever became of it since."""
    return _MARK in path.read_bytes()


def _start(content: bytes) -> int | None:
    """Where the 64 characters begin; None unless there is one such place."""
    if content.count(_MARK) != 1:
        return None
    return content.index(_MARK) + len(_MARK)


def _digest(content: bytes, start: int) -> bytes:
    view = memoryview(content)
    digest = hashlib.sha256(view[:start])
    digest.update(_ZEROS)
    digest.update(view[start + len(_ZEROS) :])
    return digest.hexdigest().encode()
