"""Whether a machine is fit to measure: each finding, and the exit code."""

import dataclasses
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import fitness
from benchmarks.harness.baseline import Baseline, Noise
from benchmarks.harness.gpu import Gpu, Sample
from benchmarks.harness.machine import Machine
from benchmarks.harness.record import Record
from benchmarks.harness.verdict import Code

ROOT = Path(__file__).resolve().parents[2]


class SilentNvml(ModuleType):
    """A module that answers nothing."""

    NVMLError = AttributeError

    def __init__(self) -> None:
        super().__init__("silent")
        self.nvmlDeviceGetHandleByIndex = str


def levels(*findings: fitness.Check) -> list[str]:
    """How grave each finding is."""
    return [finding.level for finding in findings]


def test_old_and_absent_packages_are_unfit() -> None:
    """The plugin was tried with what is named."""

    def installed(name: str) -> str:
        if name == "pytest":
            return "8.4.1"
        raise PackageNotFoundError(name)

    old, absent = fitness.packages(installed)
    assert levels(old, absent) == ["unfit", "unfit"]
    assert old.text == "pytest 8.4.1 < 9.0"
    assert levels(*fitness.packages()) == ["ok", "ok"]


@pytest.mark.parametrize(
    ("commit", "level"), [("abc", "ok"), ("abc+dirty", "warning"), ("unknown", "warning")]
)
def test_code_without_a_name_is_doubtful(commit: str, level: str) -> None:
    """It can be measured, and not accepted."""
    assert fitness.code(commit).level == level


def test_baseline_is_required_in_ci_only(toy_machine: Machine, tmp_path: Path) -> None:
    """One whose noise is unknown is a doubt."""
    record = {"step": Record("step", "n")}
    origins = {"step": "abc"}
    plain = Baseline(toy_machine, "room", record, origins)
    known = dataclasses.replace(plain, noise={"step": Noise(5, {})})
    found = [fitness.baseline(None, tmp_path, required) for required in (False, True)]
    found += [fitness.baseline(stored, tmp_path, True) for stored in (plain, known)]
    assert levels(*found) == ["warning", "unfit", "warning", "ok"]


def test_busy_host_is_a_doubt() -> None:
    """Neighbours, a saving governor, a kernel that keeps peaks to itself."""
    assert levels(*fitness.host(0.0, "performance", True)) == ["ok", "ok"]
    assert levels(*fitness.host(999.0, "powersave", False)) == ["warning"] * 3


def test_noise_is_the_middle_half_s_width() -> None:
    """One outlier is no noise."""
    calm, loud = fitness.noise({"a": [1.0] * 7 + [9.0], "b": [1.0, 1.0, 1.0, 1.5, 1.5, 2.0, 2, 2]})
    assert levels(calm, loud) == ["ok", "warning"]


def test_neighbour_on_the_gpu_is_unfit(toy_machine: Machine) -> None:
    """And so is a hardware throttle; a GPU that cannot be watched is a doubt."""
    board = dataclasses.replace(toy_machine, gpu="NVIDIA H200")
    assert levels(*fitness.gpu(board, None, [])) == ["warning"]
    assert list(fitness.gpu(toy_machine, None, [])) == []
    calm = Sample(1980, 3201, 90, 40, 0, frozenset())
    hot = dataclasses.replace(calm, throttle=0x40)
    watched = Gpu(SilentNvml(), None, frozenset())
    assert levels(*fitness.gpu(board, watched, [calm, calm])) == ["ok"]
    assert levels(*fitness.gpu(board, watched, [calm, hot])) == ["unfit", "warning", "ok"]


def test_edited_export_is_a_doubt() -> None:
    """It says what was edited: nobody remembers."""
    clean, dirty = fitness.code("abc"), fitness.code("abc+dirty", ("benchmarks", "conftest.py"))
    assert levels(clean, dirty) == ["ok", "warning"]
    assert "edited since its export: benchmarks, conftest.py" in dirty.text


@pytest.mark.parametrize(
    ("ci", "code"),
    [("", Code.PASS), ("false", Code.PASS), ("true", Code.ENVIRONMENT), ("1", Code.ENVIRONMENT)],
)
def test_exit_code_says_whether_it_is_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ci: str, code: Code,
) -> None:  # fmt: skip
    """A machine without a baseline is fit at a desk and not in CI."""
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "policy.toml", tmp_path / "benchmarks")
    monkeypatch.setenv("CI", ci)
    assert main(["doctor", "--device", "cpu"], tmp_path) == code
    printed = capsys.readouterr().out
    assert "hardware key cpu_" in printed
    assert "canary wall.copy" in printed
    assert printed.splitlines()[-1].startswith("NOT FIT" if code else "fit to measure")
