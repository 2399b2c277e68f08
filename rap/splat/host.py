"""Memory that a program on this machine can still have: the system's, and its control group's.

A container, a batch job or a systemd unit has a limit of its own, of which /proc/meminfo says
nothing; a program that passes it is killed without a word.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


class _Names(NamedTuple):
    limit: str
    used: str
    cache: str
    """Line of memory.stat: of what is used, the pages of files that can be dropped."""


_V2 = _Names("memory.max", "memory.current", "inactive_file")
_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def host_free_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """The least that the system and the control groups of this process say is left.

    None where nothing says so (not Linux).
    """
    found = [_of_group(folder, names) for folder, names in _groups(proc, cgroups)]
    found.append(_value(proc / "meminfo", "MemAvailable:", 1024))
    return min((free for free in found if free is not None), default=None)


def _groups(proc: Path, cgroups: Path) -> Iterator[tuple[Path, _Names]]:
    """The process's own group, of either version, and those above it; a limit of each holds.

    In a container the path may be that of the host, of which only the last part is mounted, as the
    root; what is not there is passed over.
    """
    table = proc / "self" / "cgroup"
    if not table.is_file():
        return
    for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (cgroups / "memory", _V1) if controllers else (cgroups, _V2)
        inside = PurePosixPath(path.lstrip("/"))
        for part in (inside, *inside.parents):
            yield root / part, names


def _of_group(folder: Path, names: _Names) -> int | None:
    """What a group can still take, which may drop pages of files; None where it has no limit."""
    limit, used = folder / names.limit, folder / names.used
    if not limit.is_file() or not used.is_file():
        return None
    told = limit.read_text(encoding="ascii").strip()
    if told == "max":
        return None
    cache = _value(folder / "memory.stat", names.cache) or 0
    return max(int(told) - int(used.read_text(encoding="ascii")) + cache, 0)


def _value(table: Path, name: str, unit: int = 1) -> int | None:
    """The number behind a name in a table of lines."""
    if not table.is_file():
        return None
    lines = [line.split() for line in table.read_text(encoding="ascii").splitlines()]
    found = [words[1] for words in lines if len(words) > 1 and words[0] == name]
    return unit * int(found[0]) if found else None
