"""The interpreter of each arm: this one, unless an arm's tree asks for other dependencies.

Then its environment is an overlay, cached by content: everything of this environment, and before it
on the path the requirements that differ.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

GROUPS = ("test",)
"""Dependency groups that benchmarks need beside the package's own."""
DONE = "complete"


class SetupError(RuntimeError):
    """An environment that cannot be built here: exit code 11."""


def requirements(tree: Path, *, on_gpu: bool) -> frozenset[str]:
    """What a tree's pyproject.toml asks for: dependencies, test group, on a GPU `cuda`, too."""
    path = tree / "pyproject.toml"
    if not path.exists():
        return frozenset()
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    project, groups = content.get("project", {}), content.get("dependency-groups", {})
    wanted = [*project.get("dependencies", [])]
    if on_gpu:
        wanted += project.get("optional-dependencies", {}).get("cuda", [])
    for group in GROUPS:
        wanted += [entry for entry in groups.get(group, []) if isinstance(entry, str)]
    return frozenset("".join(entry.split()) for entry in wanted)


def own_tree(default: Path) -> Path:
    """The checkout that this process's environment (`.venv`) lies in; else `default`."""
    tree = Path(sys.prefix).parent
    return tree if (tree / "pyproject.toml").is_file() else default


def interpreter(
    tree: Path,
    here: Path,
    cache: Path,
    *,
    on_gpu: bool,
    install: Callable[[Sequence[str]], None] | None = None,
) -> str:
    """The interpreter for a tree whose benchmarks are started from the environment of `here`."""
    other = sorted(requirements(tree, on_gpu=on_gpu) - requirements(here, on_gpu=on_gpu))
    if not other:
        return sys.executable
    return str(overlay(other, cache, install or run_installer))


def overlay(wanted: Sequence[str], cache: Path, install: Callable[[Sequence[str]], None]) -> Path:
    """Our own environment with some requirements installed over it; built once per content."""
    existing = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    content = "\n".join([sys.version, *existing, *wanted])
    folder = cache / hashlib.sha256(content.encode()).hexdigest()[:12]
    python = folder / "bin" / "python"
    if (folder / DONE).exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    install([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    (packages / "existing.pth").write_text("\n".join(existing) + "\n", encoding="utf-8")
    install([sys.executable, "-m", "pip", "--python", str(python), "install", "-q", *wanted])
    (folder / DONE).touch()
    return python


def run_installer(command: Sequence[str]) -> None:
    """Run one step of the set-up; SetupError with its last lines where it fails."""
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).splitlines()[-5:]
        raise SetupError(f"{' '.join(command[1:])} failed:\n" + "\n".join(lines))
