"""What decides which benchmarks are collected and which errors count, outside `benchmarks/`.

pytest reads it from the root: a conftest.py that ignores files, options in pyproject.toml, or a
file that pytest reads instead of that one.
"""

import hashlib
import sys
import tomllib
from collections.abc import Callable, Mapping
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.harness.subject import DIGEST_LENGTH

SETTINGS = ("conftest.py", "pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini")
"""Files that pytest obeys, beside pyproject.toml."""
PROJECT = "pyproject.toml"
PYTEST = (("tool", "pytest"), ("project", "entry-points"))
"""Tables of pyproject.toml that pytest obeys: its own, and plugins that load themselves."""
DEPENDENCIES = (
    ("build-system",), ("project", "requires-python"), ("project", "dependencies"),
    ("project", "optional-dependencies"), ("dependency-groups",),
)  # fmt: skip


def changed_settings(base: Path, head: Path) -> list[str]:
    """Files and tables that pytest obeys and that differ between two trees."""
    files = [name for name in SETTINGS if _content(base / name) != _content(head / name)]
    return [*files, *_changed_tables(base, head, PYTEST)]


def changed_dependencies(base: Path, head: Path) -> list[str]:
    """Tables of pyproject.toml that choose packages and differ between two trees."""
    return _changed_tables(base, head, DEPENDENCIES)


def digest_of_settings(*roots: Path) -> str:
    """Of everything in these trees that pytest obeys or that chooses packages."""
    found = hashlib.sha256()
    for root in roots:
        table = _tables(root)
        parts: list[object] = [_content(root / name) for name in SETTINGS]
        parts += [table(name) for name in (*PYTEST, *DEPENDENCIES)]
        found.update(repr(parts).encode())
    return found.hexdigest()[:DIGEST_LENGTH]


def digest_of_environment() -> str:
    """Of this interpreter and the packages that it finds, each at its version."""
    names = {f"{one.metadata['Name']} {one.version}" for one in distributions()}
    return hashlib.sha256("\n".join([sys.version, *sorted(names)]).encode()).hexdigest()[
        :DIGEST_LENGTH
    ]


def _changed_tables(base: Path, head: Path, names: tuple[tuple[str, ...], ...]) -> list[str]:
    ours, theirs = _tables(base), _tables(head)
    return [f"{PROJECT} [{'.'.join(name)}]" for name in names if ours(name) != theirs(name)]


def _tables(root: Path) -> Callable[[tuple[str, ...]], object]:
    """Looks tables of a pyproject.toml up by name; one that is no TOML is itself each of them."""
    raw = _content(root / PROJECT)
    try:
        content: object = tomllib.loads(raw.decode())
    except ValueError:
        return lambda _: raw

    def table(name: tuple[str, ...]) -> object:
        found = content
        for part in name:
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    return table


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
