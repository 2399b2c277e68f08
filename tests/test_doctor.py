"""The doctor names each known mismatch with its fix, and nothing on a healthy machine."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rap import doctor
from rap.doctor.diagnosis import diagnose
from rap.doctor.machine import Environment, Gpu, gather

H200 = Gpu("NVIDIA H200", 139.8, (9, 0))
HEALTHY = Environment(
    torch="2.11.0+cu130",
    torch_cuda=(13, 0),
    torch_archs=("sm_80", "sm_90", "compute_120"),
    cuda_available=True,
    driver="580.65.06",
    driver_cuda=(13, 0),
    gpus=(H200,),
    nvcc="/usr/local/cuda/bin/nvcc",
    nvcc_cuda=(13, 0),
    packages={"gsplat": "1.5.3", "packaging": "26.0", "setuptools": "80.0", "ninja": "1.13"},
    gsplat_extension=Path("/site-packages/gsplat/csrc.so"),
)


def test_healthy_machines_have_no_problems() -> None:
    """A complete GPU machine and a plain CPU machine are both fine."""
    assert diagnose(HEALTHY) == []
    assert diagnose(Environment(torch="2.13.0+cpu")) == []


@pytest.mark.parametrize(
    ("changes", "what", "fix"),
    [
        ({"torch": "2.6.0+cu130"}, "older than 2.11", "torch>=2.11"),
        ({"torch_cuda": None, "cuda_available": False}, "CPU build", "whl/cu130"),
        ({"driver_cuda": (12, 8), "cuda_available": False}, "up to 12.8", "update the driver"),
        ({"cuda_available": False}, "sees no GPU", "CUDA_VISIBLE_DEVICES"),
        ({"torch_archs": ("sm_70", "sm_120")}, "sm_90, torch has only", "build for this GPU"),
        ({"packages": {}, "gsplat_extension": None}, "gsplat is not installed", "rap[cuda]"),
        ({"gsplat_extension": None, "nvcc": None}, "no nvcc", "prebuilt gsplat wheel for torch"),
        (
            {"gsplat_extension": None, "packages": {"gsplat": "1.5.3"}},
            "needs packaging, setuptools, ninja",
            "pip install packaging setuptools ninja",
        ),
        ({"gsplat_extension": None, "nvcc_cuda": (12, 4)}, "is CUDA 12.4", "13.0 toolkit"),
        (
            {"extension_errors": {"gsplat": "undefined symbol: c10_cuda"}},
            "undefined symbol: c10_cuda",
            "built for torch 2.11.0+cu130",
        ),
        (
            {"extension_errors": {"fused-ssim": "no kernel image"}},
            "fused-ssim does not work (no kernel image)",
            "TORCH_CUDA_ARCH_LIST",
        ),
        ({"bytecode": False}, "keeps no compiled files of torch", "PYTHONPYCACHEPREFIX"),
    ],
)
def test_each_mismatch_is_named_with_its_fix(changes: dict[str, Any], what: str, fix: str) -> None:
    """One change to a healthy machine gives one problem."""
    (problem,) = diagnose(dataclasses.replace(HEALTHY, **changes))
    assert what in problem.what
    assert fix in problem.fix


def test_unwritable_cache_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder below one that cannot be written is a problem before anything compiles."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    folders = {"extensions": tmp_path / "deeper" / "cache"}
    (problem,) = diagnose(dataclasses.replace(HEALTHY, folders=folders))
    assert str(tmp_path) in problem.what


@pytest.mark.parametrize(
    ("archs", "runs"),
    [
        (("sm_90",), True),
        (("sm_86",), False),
        (("sm_80", "compute_80"), True),
        (("sm_100",), False),
        ((), True),
    ],
)
def test_which_code_runs_on_which_gpu(archs: tuple[str, ...], runs: bool) -> None:
    """Machine code needs its own major version; PTX runs on everything newer."""
    problems = diagnose(dataclasses.replace(HEALTHY, torch_archs=archs))
    assert (problems == []) is runs


def test_gather_sees_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled gsplat in torch's cache is found, and nvcc's version is read from its output."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.6, V12.6.77'\n")
    nvcc.chmod(0o700)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    found = gather()
    assert (found.nvcc, found.nvcc_cuda) == (str(nvcc), (12, 6))
    assert found.folders["compiled gsplat"] == tmp_path / "extensions"
    assert "setuptools" in found.packages


def test_missing_bytecode_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for it in which torch has left nothing, and then something."""
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    assert not gather().bytecode
    kept = Path(importlib.util.cache_from_source(torch.__file__))
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert gather().bytecode


def test_run_prints_every_part_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table lists parts; the problem is below it, and only a fatal one fails."""
    broken = dataclasses.replace(HEALTHY, gsplat_extension=None, nvcc=None, nvcc_cuda=None)
    monkeypatch.setattr(doctor, "gather", lambda: broken)
    assert doctor.run()
    text = capsys.readouterr().err
    for part in ("Python", "NVIDIA H200", "580.65.06", "not compiled yet", "fused-ssim"):
        assert part in text
    assert "Fix: install a prebuilt gsplat wheel" in text
    monkeypatch.setattr(doctor, "gather", lambda: dataclasses.replace(HEALTHY, torch="2.6.0"))
    assert not doctor.run()


def _gather_with_gsplat(folder: Path, package: Path, **environment: str) -> str:
    """The extension that is found where a gsplat is installed whose import would fail."""
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    metadata = folder / "gsplat-1.5.3.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gsplat\nVersion: 1.5.3\n")
    code = "from rap.doctor.machine import gather; print(gather().gsplat_extension)"
    paths = os.pathsep.join([str(folder), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths} | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_looking_at_gsplat_does_not_import_it(tmp_path: Path) -> None:
    """A gsplat whose import would fail is found, with its prebuilt extension, and left alone."""
    package = tmp_path / "gsplat"
    package.mkdir()
    (package / "csrc.so").write_bytes(b"")
    assert _gather_with_gsplat(tmp_path, package) == str(package / "csrc.so")


def test_gsplat_compiled_by_rap_is_found(tmp_path: Path) -> None:
    """The extension is looked for where `rap.splat.render` has it compiled."""
    name = f"gsplat-1.5.3-torch-{torch.__version__}"
    compiled = tmp_path / "rap" / name / "gsplat_cuda" / "gsplat_cuda.so"
    compiled.parent.mkdir(parents=True)
    compiled.write_bytes(b"")
    cache = {"XDG_CACHE_HOME": str(tmp_path), "TORCH_EXTENSIONS_DIR": ""}
    assert _gather_with_gsplat(tmp_path, tmp_path / "gsplat", **cache) == str(compiled)
