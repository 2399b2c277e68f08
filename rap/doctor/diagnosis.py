"""Known mismatches between driver, torch, nvcc and compiled packages, each with its fix."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from rap.doctor.machine import Environment, dotted, two_numbers

OLDEST_TORCH = (2, 11)


@dataclass(frozen=True)
class Problem:
    """Something that does not fit, and what to do about it."""

    what: str
    fix: str
    fatal: bool = False
    """Nothing works until it is fixed; otherwise something is slower or missing."""


def diagnose(environment: Environment) -> list[Problem]:
    """Every known mismatch in an environment."""
    if not environment.gpus:
        return [
            *_torch_problems(environment), *_bytecode_problems(environment),
            *_folder_problems(environment),
        ]  # fmt: skip
    return [
        *_torch_problems(environment),
        *_bytecode_problems(environment),
        *_cuda_problems(environment),
        *_gsplat_problems(environment),
        *_fused_ssim_problems(environment),
        *_folder_problems(environment),
    ]


def _torch_problems(environment: Environment) -> list[Problem]:
    found = two_numbers(environment.torch)
    if found is not None and found < OLDEST_TORCH:
        oldest = dotted(OLDEST_TORCH)
        return [Problem(f"torch {environment.torch} is older than {oldest}",
                        f"pip install 'torch>={oldest}'", fatal=True)]  # fmt: skip
    return []


def _cuda_problems(environment: Environment) -> list[Problem]:
    """Why torch does not use the GPU that is there."""
    build, newest = environment.torch_cuda, environment.driver_cuda
    gpu = environment.gpus[0]
    if build is None:
        tag = f"cu{newest[0]}0" if newest else "cu130"
        return [Problem(f"torch {environment.torch} is a CPU build, but there is a {gpu.name}",
                        "pip install --force-reinstall torch --index-url "
                        f"https://download.pytorch.org/whl/{tag}")]  # fmt: skip
    if newest is not None and newest[0] < build[0]:
        return [Problem(f"driver {environment.driver} runs CUDA up to {dotted(newest)}, torch was "
                        f"built for {dotted(build)}",
                        f"update the driver, or install a torch for CUDA {newest[0]}")]  # fmt: skip
    if not environment.cuda_available:
        return [Problem(f"torch sees no GPU, although the driver has a {gpu.name}",
                        "check CUDA_VISIBLE_DEVICES (now "
                        f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}) and that this user "
                        "may open /dev/nvidia*")]  # fmt: skip
    if not _runs_on(gpu.capability, environment.torch_archs):
        return [Problem(f"{gpu.name} is sm_{gpu.capability[0]}{gpu.capability[1]}, torch has only "
                        f"{', '.join(environment.torch_archs)}",
                        "install a torch build for this GPU")]  # fmt: skip
    return []


def _gsplat_problems(environment: Environment) -> list[Problem]:
    """Why renders on the GPU would be slow, or fail."""
    if not environment.cuda_available:
        return []
    if "gsplat" not in environment.packages:
        return [Problem("gsplat is not installed, so the GPU renders with the slow plain code",
                        "pip install 'rap[cuda]'")]  # fmt: skip
    if error := environment.extension_errors.get("gsplat"):
        return [Problem(f"gsplat's compiled extension {environment.gsplat_extension} does not load "
                        f"({error}); it fits exactly one torch and Python version",
                        f"install a gsplat wheel built for torch {environment.torch}, or remove the"
                        " file to compile it again")]  # fmt: skip
    if environment.gsplat_extension is not None:
        return []
    if environment.nvcc is None:
        return [Problem("gsplat is not compiled and there is no nvcc to compile it",
                        f"install a prebuilt gsplat wheel for torch {environment.torch}, or the "
                        "CUDA toolkit that matches torch "
                        f"({dotted(environment.torch_cuda)}) and set CUDA_HOME")]  # fmt: skip
    return _compiler_problems(environment)


def _compiler_problems(environment: Environment) -> list[Problem]:
    """Why compiling gsplat on first use would fail."""
    problems = []
    needed = ("packaging", "setuptools", "ninja")
    missing = [name for name in needed if name not in environment.packages]
    if missing:
        problems.append(Problem(f"gsplat compiles on first use and needs {', '.join(missing)}",
                                f"pip install {' '.join(missing)}"))  # fmt: skip
    nvcc, build = environment.nvcc_cuda, environment.torch_cuda
    if nvcc is not None and build is not None and nvcc[0] != build[0]:
        problems.append(Problem(f"{environment.nvcc} is CUDA {dotted(nvcc)}, torch was built for "
                                f"{dotted(build)}: gsplat will not compile",
                                f"install a CUDA {dotted(build)} toolkit and set "
                                "CUDA_HOME"))  # fmt: skip
    return problems


def _fused_ssim_problems(environment: Environment) -> list[Problem]:
    error = environment.extension_errors.get("fused-ssim")
    if error is None:
        return []
    return [Problem(f"fused-ssim does not work ({error}); the plain SSIM is used, which is slower",
                    "build it again with this torch, on a machine that sees the GPU or with "
                    "TORCH_CUDA_ARCH_LIST set: pip install --no-build-isolation --force-reinstall "
                    "--group fused-ssim")]  # fmt: skip


def _bytecode_problems(environment: Environment) -> list[Problem]:
    if environment.bytecode:
        return []
    return [Problem("Python keeps no compiled files of torch, so every command compiles its sources"
                    " anew (8 s on an H200 machine)",
                    "set PYTHONPYCACHEPREFIX to a folder that can be written, and unset "
                    "PYTHONDONTWRITEBYTECODE")]  # fmt: skip


def _folder_problems(environment: Environment) -> list[Problem]:
    return [
        Problem(f"{folder}, for {what}, cannot be written", "make it writable, or set its variable")
        for what, folder in environment.folders.items()
        if not os.access(_existing(folder), os.W_OK)
    ]


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))


def _runs_on(capability: tuple[int, int], archs: tuple[str, ...]) -> bool:
    """Machine code runs on its own major version from its minor on, PTX on anything newer."""
    found = re.compile(r"(sm|compute)_(\d+)(\d)")
    built = [match.groups() for arch in archs if (match := found.match(arch))]
    return not built or any(
        (int(major), int(minor)) <= capability
        and (kind == "compute" or int(major) == capability[0])
        for kind, major, minor in built
    )
