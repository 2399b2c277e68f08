"""Which machine this is: the key under which its baselines lie, and the facts shown beside them."""

import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.harness.gpu import FAMILY, Gpu, listed_processes, load_nvml

PACKAGES = ("torch", "numpy", "triton", "gsplat", "fused-ssim", "pytest-benchmark")


@dataclass(frozen=True)
class Machine:
    """Hardware, which makes the key, and versions, which are judged and not waved through."""

    device: str
    cpu: str
    cores: int
    memory_bytes: int
    runtime: str
    """Container runtime; wall times are gated only where it is the baseline's."""
    versions: dict[str, str]
    gpu: str | None = None
    num_gpus: int = 0
    gpu_memory_bytes: int = 0
    power_limit_w: float | None = None
    gpu_uuid: str | None = None

    @property
    def key(self) -> str:
        """A folder's name: the GPU's model, count, memory, power limit, if used; CPU and cores."""
        host = f"{slug(self.cpu)}_x{self.cores}"
        if self.gpu is None:
            return f"cpu_{host}"
        limit = "any" if self.power_limit_w is None else f"{self.power_limit_w:.0f}w"
        memory = f"{self.gpu_memory_bytes / 2**30:.0f}g"
        return f"{slug(self.gpu)}_x{self.num_gpus}_{memory}_{limit}_{host}"

    def describe(self) -> str:
        """One line for people."""
        gpu = ""
        if self.gpu is not None:
            limit = "" if self.power_limit_w is None else f", {self.power_limit_w:.0f} W"
            gpu = f"{self.num_gpus} x {self.gpu} ({self.gpu_memory_bytes / 2**30:.0f} GiB{limit}), "
        host = f"{self.cpu}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB"
        shown = [f"{name} {self.versions[name]}" for name in self.versions]
        return f"{gpu}{host}, {self.runtime}; {', '.join(shown)}"


def slug(text: str) -> str:
    """Lower case, digits and dashes: what every file system and shell takes."""
    bare = re.sub(r"\(r\)|\(tm\)|@.*|\b(cpu|processor|\d+-core)\b", " ", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", bare).strip("-") or "unknown"


def suite_name(scene: str, *, full: bool) -> str:
    """Which set of numbers a run belongs to: the scene, and `-full` with all parameters."""
    return slug(Path(scene).name) + ("-full" if full else "")


def resolve_device(wanted: str) -> str:
    """`auto` → `cuda` where torch can use a GPU, else `cpu`; torch is imported only near a GPU."""
    near_gpu = Path("/proc/driver/nvidia").exists() or load_nvml() is not None
    if wanted == "cpu" or (wanted == "auto" and not near_gpu):
        return "cpu"
    try:
        import torch
    except ImportError:
        usable = False
    else:
        usable = torch.cuda.is_available()
    if wanted == "cuda" and not usable:
        raise ValueError("--device cuda: torch finds no usable GPU here; accepted are auto and cpu")
    return "cuda" if usable else "cpu"


def this_machine(device: str) -> tuple[Machine, Gpu | None]:
    """The machine as `device` uses it, and on a GPU with NVML the handle to watch it."""
    versions = {"python": platform.python_version(), **_package_versions()}
    host = Machine(
        device, _cpu_model(), num_cores(), _memory_bytes(), container_runtime(), versions
    )
    return _with_gpu(host) if device == "cuda" else (host, None)


def _with_gpu(host: Machine) -> tuple[Machine, Gpu | None]:
    import torch

    nvml = load_nvml()
    before = frozenset() if nvml is None else listed_processes(nvml)
    torch.zeros(1, device="cuda")  # from here on this process is on NVML's list
    properties = torch.cuda.get_device_properties(0)
    uuid = getattr(properties, "uuid", None)
    name = None if uuid is None else f"GPU-{uuid}"
    gpu = None if nvml is None else Gpu(nvml, name, before)
    if gpu is not None:
        os.environ[FAMILY] = gpu.family()  # for the fresh processes in which we measure again
    versions = host.versions | {"cuda": str(torch.version.cuda)}
    if gpu is not None:
        versions["driver"] = gpu.driver() or "unknown"
    machine = Machine(
        host.device, host.cpu, host.cores, host.memory_bytes, host.runtime, versions,
        gpu=properties.name, num_gpus=torch.cuda.device_count(),
        gpu_memory_bytes=properties.total_memory,
        power_limit_w=None if gpu is None else gpu.power_limit_w(), gpu_uuid=name,
    )  # fmt: skip
    return machine, gpu


def _package_versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Processor cores this process may use: its affinity, within the container's quota."""
    affinity = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        limit, period = quota.read_text(encoding="ascii").split()
        if limit != "max":
            return max(1, min(affinity, round(int(limit) / int(period))))
    return affinity


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def container_runtime(root: Path = Path("/")) -> str:
    """`docker`, `podman`, `gvisor` or `none`: each has its own price for system calls."""
    proc_version = root / "proc/version"
    # gVisor's sentry always claims to be this kernel, built at this moment.
    if proc_version.exists() and "Sun Jan 10 15:06:54 PST 2016" in proc_version.read_text("ascii"):
        return "gvisor"
    if (root / "run/.containerenv").exists():
        return "podman"
    return "docker" if (root / ".dockerenv").exists() else "none"
