"""What this machine has, what does not fit together, and how to fix it."""

import platform
import sys

from rap import log
from rap.doctor.diagnosis import diagnose
from rap.doctor.machine import PACKAGES, Environment, dotted, gather


def run() -> bool:
    """Print the table and the problems; False when something makes `rap` unusable here."""
    environment = gather()
    problems = diagnose(environment)
    log.table("rap doctor", ["part", "state"], _rows(environment))
    for problem in problems:
        log.warn(f"{problem.what}. Fix: {problem.fix}")
    if not problems:
        log.info("no problem found")
    return not any(problem.fatal for problem in problems)


def _rows(environment: Environment) -> list[tuple[str, str]]:
    packages = environment.packages
    compiled = "compiled" if environment.gsplat_extension else "not compiled yet"
    states = {name: packages.get(name, "not installed") for name in PACKAGES}
    if "gsplat" in packages:
        states["gsplat"] += f", {compiled}"
    for name, error in environment.extension_errors.items():
        states[name] += f", broken: {error}"
    gpus = [f"{gpu.name}, {gpu.memory_gib:.0f} GiB, sm_{gpu.capability[0]}{gpu.capability[1]}"
            for gpu in environment.gpus]  # fmt: skip
    driver = environment.driver or "none"
    if environment.driver_cuda:
        driver += f", runs CUDA up to {dotted(environment.driver_cuda)}"
    nvcc = environment.nvcc or "not found"
    return [
        ("Python", f"{platform.python_version()}, {sys.executable}"),
        ("torch", environment.torch),
        ("CUDA of torch", dotted(environment.torch_cuda)),
        ("NVIDIA driver", driver),
        ("GPUs", "\n".join(gpus) or "none"),
        ("torch uses the GPU", "yes" if environment.cuda_available else "no"),
        ("nvcc", f"{nvcc}, {dotted(environment.nvcc_cuda)}" if environment.nvcc else nvcc),
        *states.items(),
        *((f"cache: {what}", str(folder)) for what, folder in environment.folders.items()),
    ]
