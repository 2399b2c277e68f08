"""Photographs to poses with a trained regressor, and how long that takes."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn

from rap.camera import Camera
from rap.config import ConfigError, Precision
from rap.data.images import decode
from rap.data.validate import image_size
from rap.model.checkpoint import Checkpoint, load
from rap.model.precision import precision_scope
from rap.scene import DataError, Frame

Poses = Float64[Tensor, "n 4 4"]
"""`world_from_camera` of n images."""
Images = Float[Tensor, "n 3 h w"]
"""In [0, 1]."""

_WARM_UP_ROUNDS = 3
_MAX_TIMED_MS = 5000.0
_ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True)
class Latency:
    """Time of the network alone: uint8 images on the device to poses on the device."""

    p50_ms: float
    """Median over calls with one image, waiting for each."""
    p95_ms: float
    throughput_per_s: float
    """Images per second, `batch_size` at a time, median over calls."""
    batch_size: int
    num_calls: int
    """With one image; a slow machine stops before `rounds`."""


@torch.no_grad()
def predict(
    regressor: nn.Module,
    images: UInt8[Tensor, "n 3 h w"],
    device: torch.device,
    batch_size: int = 64,
    precision: Precision = "fp32",
) -> Poses:
    """`world_from_camera` of every image, on the CPU.

    The regressor must already be on the device; it is put into evaluation mode meanwhile. Images
    travel as uint8, and only the poses come back.
    """
    with _evaluating(regressor), precision_scope(precision, device):
        poses = [
            _forward(regressor, chunk.to(device, non_blocking=True))
            for chunk in images.split(batch_size)
        ]
    if not poses:
        return torch.empty(0, 4, 4, dtype=torch.float64)
    return torch.cat(poses).cpu().double()


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where torch can use one, else the CPU; also `cpu` and `cuda`.

    Raises ConfigError for a GPU that torch cannot use.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda': torch sees no GPU here; `rap doctor` says why")
    return torch.device(name)


def load_run(run: Path, device: torch.device) -> Checkpoint:
    """The best regressor of a run directory, or that of one .safetensors file, on `device`.

    Raises CheckpointError for a file that does not fit, DataError where there is none.
    """
    path = run / "best.safetensors" if run.is_dir() else run
    if not path.is_file():
        raise DataError(_why_no_weights(run))
    return load(path, device)


def _why_no_weights(run: Path) -> str:
    if not (run / "config.toml").is_file():
        found = "holds no run" if run.is_dir() else "no such file"
        return f"{run}: {found}; accepted: a run directory or a .safetensors file"
    last = run / "last.safetensors"
    other = f", or score {last}" if last.is_file() else ""
    return f"{run}: has not finished; resume with `rap train SCENE -o {run} --resume`{other}"


def localize(
    checkpoint: Checkpoint,
    photos: Sequence[Path],
    device: torch.device,
    precision: Precision = "fp32",
    num_workers: int = 4,
) -> Poses:
    """`world_from_camera` of photographs from the camera that the network was trained for.

    Raises DataError for a photograph that cannot be read or has another shape.
    """
    sizes = [image_size(photo) for photo in photos]
    for photo, size in zip(photos, sizes, strict=True):
        check_aspect(str(photo), *size, checkpoint.camera)
    unknown = torch.eye(4, dtype=torch.float64)
    frames = [Frame(str(photo), unknown, photo) for photo in photos]
    camera = checkpoint.camera
    images = torch.empty(len(photos), 3, camera.height, camera.width, dtype=torch.uint8)
    for size in set(sizes):
        # decoded together are only images of one size
        chosen = [index for index, other in enumerate(sizes) if other == size]
        images[chosen] = decode([frames[index] for index in chosen], camera, num_workers)
    return predict(checkpoint.regressor, images, device, precision=precision)


def check_aspect(what: str, width: int, height: int, camera: Camera) -> None:
    """Raise DataError unless an image resizes to the network's input without being squeezed."""
    squeeze = (width / height) / (camera.width / camera.height)
    if abs(squeeze - 1) > _ASPECT_TOLERANCE:
        raise DataError(
            f"{what}: {width}x{height} pixels; the network takes {camera.width}x{camera.height}, "
            f"so width / height must be {camera.width / camera.height:.3f} within 2 %: crop first"
        )


@torch.no_grad()
def measure_latency(
    regressor: nn.Module,
    camera: Camera,
    device: torch.device,
    precision: Precision = "fp32",
    batch_size: int = 64,
    rounds: int = 50,
) -> Latency:
    """Time up to `rounds` calls with one image and as many with a batch, after warm-up.

    Either stops early after about five seconds. The images are grey: the network's work does not
    depend on what they show.
    """
    batch = torch.full(
        (batch_size, 3, camera.height, camera.width), 128, dtype=torch.uint8, device=device
    )
    with _evaluating(regressor), precision_scope(precision, device):
        single = _times_ms(lambda: _forward(regressor, batch[:1]), rounds, device)
        many = _times_ms(lambda: _forward(regressor, batch), rounds, device)
    p50, p95 = single.quantile(0.5).item(), single.quantile(0.95).item()
    throughput = 1000 * batch_size / many.quantile(0.5).item()
    return Latency(p50, p95, throughput, batch_size, len(single))


def _forward(regressor: nn.Module, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 4 4"]:
    return regressor(images.float() / 255).world_from_camera


@contextmanager
def _evaluating(regressor: nn.Module) -> Iterator[None]:
    """Evaluation mode for the block, then the mode from before."""
    training = regressor.training
    regressor.eval()
    try:
        yield
    finally:
        regressor.train(training)


def _times_ms(call: Callable[[], Tensor], rounds: int, device: torch.device) -> Tensor:
    """Wall time of each call until the device has finished it."""

    def timed() -> float:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1000 * (time.perf_counter() - start)

    for _ in range(_WARM_UP_ROUNDS):
        timed()
    times: list[float] = []
    while len(times) < rounds and sum(times) < _MAX_TIMED_MS:
        times.append(timed())
    return torch.tensor(times, dtype=torch.float64)
