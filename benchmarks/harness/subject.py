"""The package under test, as this process imported it: the proof that an arm measured its own code.

With only PYTHONPATH set, a base arm silently imports the head's package and every A/B is green for
ever. So each session says where its package lies and what is in it.
"""

import hashlib
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "rap"
SOURCES = (".py", ".toml", ".json", ".txt")
DIGEST_LENGTH = 12


@dataclass(frozen=True)
class Subject:
    """Where the measured package lies, and the digest of its sources."""

    file: str
    digest: str


def measured_subject(package: str = PACKAGE) -> Subject | None:
    """The package that this process has imported; None if it has not."""
    module = sys.modules.get(package)
    file = getattr(module, "__file__", None)
    return None if file is None else Subject(file, digest_of(Path(file).resolve().parent))


@cache
def digest_of(folder: Path, without: str = "") -> str:
    """SHA-256 over names and contents of a folder's sources; compiled files are left out.

    So is everything in its subfolder `without`.
    """
    found = hashlib.sha256()
    left_out = folder / without if without else None
    for path in sorted(folder.rglob("*")):
        if left_out is not None and path.is_relative_to(left_out):
            continue
        if path.suffix in SOURCES and path.is_file():
            name = path.relative_to(folder).as_posix()
            content = path.read_bytes()
            found.update(f"{name}\0{len(content)}\0".encode())
            found.update(content)
    return found.hexdigest()[:DIGEST_LENGTH]
