"""Every gate of this repository can fail: a mistake is planted, and the gate has to see it."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from rap import config, geometry

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run our interpreter in a folder that holds a copy of our settings."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter over a skeleton, with the contracts of pyproject.toml."""
    call = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return run_python(folder, "-c", call, "--no-cache")


def need(module: str) -> None:
    """Skip where a linter is left out on purpose (`make WHEELS=...`)."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: run `make setup` without WHEELS")


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """Our layers as empty modules: the contracts are judged, not what rap happens to hold."""
    layers = PYPROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    package = tmp_path / "rap"
    package.mkdir()
    for name in ("__init__", *re.findall(r"\w+", " ".join(layers))):
        (package / f"{name}.py").touch()
    (package / "cli.py").unlink()
    (package / "cli").mkdir()
    (package / "cli" / "__init__.py").touch()
    (package / "cli" / "arguments.py").write_text("import tyro\n", encoding="utf-8")
    return tmp_path


def test_wrong_shape_is_refused() -> None:
    """The jaxtyping hook checks calls into rap while tests run."""
    with pytest.raises(TypeCheckError):
        geometry.invert(torch.eye(3))


def test_wrong_dtype_is_refused() -> None:
    """A tensor of whole numbers is no pose."""
    with pytest.raises(TypeCheckError):
        geometry.invert(torch.eye(4, dtype=torch.int64))


def test_unknown_setting_is_refused() -> None:
    """A misspelt key is an error that names the right one, never ignored."""
    with pytest.raises(config.ConfigError, match=r"did you mean train\.batch_size"):
        config.from_toml("[train]\nbatch_sise = 4\n", "planted.toml")


def test_unknown_marker_is_refused() -> None:
    """Strict pytest: a misspelt marker would silently deselect a test."""
    with pytest.raises(pytest.fail.Exception, match="planted_marker"):
        pytest.mark.planted_marker  # noqa: B018 (the look-up itself is the gate)


def test_warning_is_an_error() -> None:
    """A deprecation or a numeric warning fails the test that raises it."""
    with pytest.raises(UserWarning, match="planted"):
        warnings.warn("planted", UserWarning, stacklevel=1)


def test_old_temporary_folder_fails_no_run() -> None:
    """pytest sweeps those of earlier runs at its end, where another run may sweep or write them."""
    warnings.warn("(rm_rf) error removing planted", pytest.PytestWarning, stacklevel=1)


def test_clean_skeleton_keeps_the_contracts(skeleton: Path) -> None:
    """The control: without a planted import nothing is broken."""
    result = lint_imports(skeleton)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("geometry", "import rap.scene", "Layers"),
        ("model", "import rap.data", "Layers"),
        ("camera", "import tyro", "Only the command line knows tyro"),
        ("train", "import gsplat", "Only splat knows gsplat and fused-ssim"),
    ],
    ids=["upward", "sideways", "tyro", "gsplat"],
)
def test_planted_import_breaks_its_contract(
    skeleton: Path, module: str, line: str, contract: str
) -> None:
    """An import against the layers, or of a library that only one module may know, is red."""
    (skeleton / "rap" / f"{module}.py").write_text(f"{line}\n", encoding="utf-8")
    result = lint_imports(skeleton)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{contract} BROKEN" in result.stdout


def test_module_without_a_layer_is_red(skeleton: Path) -> None:
    """A new module must be given its place."""
    (skeleton / "rap" / "planted.py").touch()
    result = lint_imports(skeleton)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "rap.planted" in result.stdout


def test_linter_sees_a_print(tmp_path: Path) -> None:
    """`make lint` refuses what the house rules refuse: here a print in the library."""
    need("ruff")
    (tmp_path / "planted.py").write_text('print("planted")\n', encoding="utf-8")
    result = run_python(tmp_path, "-m", "ruff", "check", "--no-cache", "planted.py")
    assert result.returncode == 1
    assert "T201" in result.stdout


def test_type_checker_sees_a_wrong_type(tmp_path: Path) -> None:
    """Without its section in pyproject.toml pyrefly finds nothing: the section must be read."""
    need("pyrefly")
    (tmp_path / "rap").mkdir()
    wrong = 'def planted(num: int) -> str:\n    return num + "1"\n'
    (tmp_path / "rap" / "planted.py").write_text(wrong, encoding="utf-8")
    result = run_python(tmp_path, "-m", "pyrefly", "check")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "planted.py" in result.stdout + result.stderr
