"""Memory that is left on the host: the least of what the system and control groups say."""

from pathlib import Path

import pytest

from rap.splat.host import host_free_bytes

V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def machine(root: Path, table: str) -> tuple[Path, Path]:
    """/proc of a machine with 7 MiB left, whose process is in the groups of a table."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    7168 kB\n")
    (root / "proc" / "self" / "cgroup").write_text(table)
    (root / "cgroup").mkdir()
    return root / "proc", root / "cgroup"


def group(folder: Path, names: tuple[str, str, str], limit: str, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names[:2], (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cache}\n")


def test_the_system_tells_where_no_group_has_a_limit(tmp_path: Path) -> None:
    """Or where there are no groups; None where nothing tells."""
    paths = machine(tmp_path, "0::/a\n")
    assert host_free_bytes(*paths) == 7 * 2**20
    group(tmp_path / "cgroup" / "a", V2, "max", 10**9, 0)
    assert host_free_bytes(*paths) == 7 * 2**20
    assert host_free_bytes(tmp_path / "none", tmp_path / "none") is None


@pytest.mark.parametrize("limited", ["", "job", "job/step"])
def test_the_limit_of_a_group_of_version_2_counts(tmp_path: Path, limited: str) -> None:
    """Its own and that of every group above, less what is used besides the pages of files."""
    paths = machine(tmp_path, "0::/job/step\n")
    group(tmp_path / "cgroup" / "job" / "step", V2, "max", 1, 0)
    group(tmp_path / "cgroup" / limited, V2, "5000000", 3_000_000, 500_000)
    assert host_free_bytes(*paths) == 2_500_000


@pytest.mark.parametrize("path", ["/job/7", "/docker/of/the/host"])
def test_the_limit_of_a_group_of_version_1_counts(tmp_path: Path, path: str) -> None:
    """Also where a container sees its own group as the root; other controllers say nothing."""
    paths = machine(tmp_path, f"9:cpu:/x\n4:memory,hugetlb:{path}\n0::/\n")
    own = tmp_path / "cgroup" / "memory" / ("job/7" if path == "/job/7" else "")
    group(tmp_path / "cgroup" / "memory", V1, "9223372036854771712", 10**9, 0)
    group(own, V1, "4000000", 1_000_000, 0)
    assert host_free_bytes(*paths) == 3_000_000


def test_a_group_that_is_full_has_nothing_left(tmp_path: Path) -> None:
    """Not less than nothing."""
    paths = machine(tmp_path, "0::/\n")
    group(tmp_path / "cgroup", V2, "100", 200, 0)
    assert host_free_bytes(*paths) == 0


def test_this_machine_is_plausible() -> None:
    """Between a megabyte and a petabyte, or unknown."""
    free = host_free_bytes()
    assert free is None or 2**20 < free < 2**50
