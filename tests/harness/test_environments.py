"""One environment for both arms, unless their dependencies differ; then an overlay, built once."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.harness.environments import (
    SetupError,
    interpreter,
    own_tree,
    requirements,
    run_installer,
)

PROJECT = """
[project]
dependencies = ["numpy>=1.26", {extra}]
[project.optional-dependencies]
cuda = ["gsplat==1.5.3"]
[dependency-groups]
dev = ["ruff"]
test = ["pytest >= 9.0"]
"""


def tree(folder: Path, extra: str = "") -> Path:
    """A tree that asks for these dependencies."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT.format(extra=extra), encoding="utf-8")
    return folder


class Installer:
    """Notes what it was asked to run, and plays venv."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> None:
        """One step of the set-up."""
        self.commands.append([*command])
        if "venv" in command:
            version = f"python{sys.version_info.major}.{sys.version_info.minor}"
            (Path(command[-1]) / "lib" / version / "site-packages").mkdir(parents=True)


def test_equal_dependencies_share_this_environment(tmp_path: Path) -> None:
    """Nothing is installed; another order or a linter makes no difference."""
    install = Installer()
    here, base = tree(tmp_path / "here"), tree(tmp_path / "base")
    assert interpreter(base, here, tmp_path, on_gpu=False, install=install) == sys.executable
    assert install.commands == []


def test_other_dependencies_get_an_overlay_once(tmp_path: Path) -> None:
    """Only what differs is installed, over everything that is here; the second time it is there."""
    install = Installer()
    here, base = tree(tmp_path / "here"), tree(tmp_path / "base", '"torch < 2.12"')
    found = [
        interpreter(base, here, tmp_path / "cache", on_gpu=False, install=install) for _ in range(2)
    ]
    assert found[0] == found[1] != sys.executable
    assert len(install.commands) == 2
    assert install.commands[1][-1] == "torch<2.12"
    assert "numpy>=1.26" not in install.commands[1]
    (existing,) = (tmp_path / "cache").rglob("existing.pth")
    assert any(path.endswith("site-packages") for path in existing.read_text().splitlines())


def test_overlay_that_failed_is_built_again(tmp_path: Path) -> None:
    """Half an environment is never used."""
    here, base = tree(tmp_path / "here"), tree(tmp_path / "base", '"torch<2.12"')
    install = Installer()

    def fail(command: Sequence[str]) -> None:
        install(command)
        if "pip" in command:
            raise SetupError("no network")

    for _ in range(2):
        with pytest.raises(SetupError):
            interpreter(base, here, tmp_path / "cache", on_gpu=False, install=fail)
    assert len(install.commands) == 4


def test_gpu_extras_count_on_a_gpu_only(tmp_path: Path) -> None:
    """Elsewhere gsplat is not installed, and its version cannot matter."""
    folder = tree(tmp_path / "here")
    extra = requirements(folder, on_gpu=True) - requirements(folder, on_gpu=False)
    assert extra == {"gsplat==1.5.3"}


def test_failed_installation_says_why() -> None:
    """The last lines of what was printed."""
    with pytest.raises(SetupError, match="broken"):
        run_installer([sys.executable, "-c", "import sys; sys.exit('broken')"])


def test_environment_belongs_to_the_checkout_that_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that measures another tree from its own checkout runs in its own environment."""
    judge, head = tree(tmp_path / "judge"), tree(tmp_path / "head", '"more>=1"')
    monkeypatch.setattr("sys.prefix", str(judge / ".venv"))
    assert own_tree(head) == judge
    monkeypatch.setattr("sys.prefix", "/usr")
    assert own_tree(head) == head
