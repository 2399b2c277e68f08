"""Facts about this machine, gathered without importing gsplat.

gsplat's import starts a compilation of minutes wherever it finds nvcc, so its files are only looked
at, and compiled extensions are tried in a process of their own.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("gsplat", "fused-ssim", "timm", "packaging", "setuptools", "ninja")
_PROBE_SECONDS = 120


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as the driver names it."""

    name: str
    memory_gib: float
    capability: tuple[int, int]


@dataclass(frozen=True)
class Environment:
    """Everything that `diagnose` judges; versions as (major, minor)."""

    torch: str
    torch_cuda: tuple[int, int] | None = None
    """CUDA that torch was built for; None: a CPU build."""
    torch_archs: tuple[str, ...] = ()
    """Such as `sm_90`: what torch's own kernels were compiled for."""
    cuda_available: bool = False
    driver: str | None = None
    driver_cuda: tuple[int, int] | None = None
    """Newest CUDA that the driver runs."""
    gpus: tuple[Gpu, ...] = ()
    nvcc: str | None = None
    nvcc_cuda: tuple[int, int] | None = None
    packages: dict[str, str] = field(default_factory=dict)
    """Installed ones of `PACKAGES` by name."""
    gsplat_extension: Path | None = None
    """The prebuilt extension, or the one that torch compiled and cached."""
    extension_errors: dict[str, str] = field(default_factory=dict)
    """Why an installed extension does not load or run, by package."""
    folders: dict[str, Path] = field(default_factory=dict)
    """Where compiled code is cached, by what is cached."""
    bytecode: bool = True
    """Whether Python keeps its compiled files of torch from one process to the next."""


def gather() -> Environment:
    """Look at this machine; takes seconds, changes nothing."""
    import torch

    cuda_available = torch.cuda.is_available()
    packages = {name: found for name in PACKAGES if (found := _installed(name))}
    driver, driver_cuda, gpus = _driver()
    nvcc = _nvcc()
    compiled = _compile_folder(packages.get("gsplat"), torch.__version__)
    extension = _gsplat_extension(compiled) if "gsplat" in packages else None
    inductor = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir())
    errors = _extension_errors(packages, extension) if cuda_available else {}
    return Environment(
        torch=torch.__version__,
        torch_cuda=two_numbers(torch.version.cuda),
        torch_archs=tuple(torch.cuda.get_arch_list()),
        cuda_available=cuda_available,
        driver=driver,
        driver_cuda=driver_cuda,
        gpus=gpus,
        nvcc=nvcc,
        nvcc_cuda=_nvcc_version(nvcc),
        packages=packages,
        gsplat_extension=extension,
        extension_errors=errors,
        folders={"compiled gsplat": compiled, "torch.compile": inductor},
        # this process has imported torch: what it could keep is there now
        bytecode=Path(importlib.util.cache_from_source(torch.__file__)).exists(),
    )


def two_numbers(text: str | None) -> tuple[int, int] | None:
    """Major and minor of a version; None where the text starts with none."""
    match = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(match[1]), int(match[2])) if match else None


def dotted(numbers: tuple[int, int] | None) -> str:
    """A version for people."""
    return f"{numbers[0]}.{numbers[1]}" if numbers else "none"


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> tuple[str | None, tuple[int, int] | None, tuple[Gpu, ...]]:
    """Driver version, newest CUDA that it runs, GPUs; nothing where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None, None, ()
    try:
        newest = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            gpus.append(Gpu(pynvml.nvmlDeviceGetName(handle), int(memory) / 2**30, (major, minor)))
        driver = pynvml.nvmlSystemGetDriverVersion()
    finally:
        pynvml.nvmlShutdown()
    return driver, (newest // 1000, newest % 1000 // 10), tuple(gpus)


def _nvcc() -> str | None:
    """The nvcc that torch would take: of CUDA_HOME, of PATH, of the usual place."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [Path(home) / "bin"] if home else []
    found = shutil.which("nvcc", path=os.pathsep.join(map(str, places))) if places else None
    return found or shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def _nvcc_version(nvcc: str | None) -> tuple[int, int] | None:
    if nvcc is None:
        return None
    output = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"release (\d+\.\d+)", output)
    return two_numbers(match[1]) if match else None


def _gsplat_extension(compiled: Path) -> Path | None:
    """The file that gsplat would load: prebuilt in the package, else compiled into a folder."""
    spec = importlib.util.find_spec("gsplat")
    folders = spec.submodule_search_locations if spec else None
    prebuilt = [path for folder in folders or [] for path in Path(folder).glob("csrc*.so")]
    cached = compiled / "gsplat_cuda" / "gsplat_cuda.so"
    return prebuilt[0] if prebuilt else cached if cached.exists() else None


def _extension_errors(packages: dict[str, str], gsplat: Path | None) -> dict[str, str]:
    """Load what is installed in a process of its own; the last line of each failure."""
    probes = {}
    if gsplat is not None:
        name = gsplat.name.split(".")[0]
        probes["gsplat"] = (
            "import sys, torch; from importlib.util import module_from_spec as load, "
            f"spec_from_file_location as at; load(at({name!r}, sys.argv[1]))"
        )
    if "fused-ssim" in packages:
        probes["fused-ssim"] = (
            "import torch; from fused_ssim import fused_ssim; "
            "x = torch.rand(1, 3, 32, 32, device='cuda'); fused_ssim(x, x).item()"
        )
    found = {name: _probe(code, str(gsplat)) for name, code in probes.items()}
    return {name: error for name, error in found.items() if error}


def _probe(code: str, argument: str) -> str:
    """Run Python code apart; empty when it works, else the last line that it says."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, argument],
            capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no answer in {_PROBE_SECONDS} s"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return "" if done.returncode == 0 else lines[-1][:200]


def _compile_folder(gsplat: str | None, torch: str) -> Path:
    """Where gsplat is compiled: `rap.splat.render` gives each pair of versions its own folder."""
    own = os.environ.get("TORCH_EXTENSIONS_DIR")
    if own or gsplat is None:
        return Path(own or Path.home() / ".cache" / "torch_extensions")
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache_home / "rap" / f"gsplat-{gsplat}-torch-{torch}"
