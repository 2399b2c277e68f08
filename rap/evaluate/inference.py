"""Photographs to poses with a trained regressor, and how long that takes."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn

from rap import log
from rap.camera import Camera
from rap.config import ConfigError, Precision
from rap.data.images import decode, decode_batches
from rap.data.validate import image_size
from rap.evaluate.views_used import views_used
from rap.model.checkpoint import Checkpoint, load
from rap.model.precision import precision_scope
from rap.scene import DataError, Frame

Poses = Float64[Tensor, "n 4 4"]
"""`world_from_camera` of n images."""
Images = Float[Tensor, "n 3 h w"]
"""In [0, 1]."""

Locate = Callable[[Tensor], Tensor]
"""uint8 images `[b, 3, h, w]` of the camera's size to `world_from_camera` `[b, 4, 4]`."""

_WARM_UP_ROUNDS = 3
_ROUNDS = {True: 1000, False: 50}
"""Calls with one image, by whether there is a GPU: a p99 needs hundreds."""
_MAX_TIMED_MS = 5000.0
_ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True)
class Latency:
    """Time of the network alone: uint8 images on the device to poses on the device."""

    p50_ms: float
    """Median over calls with one image, waiting for each."""
    p95_ms: float
    p99_ms: float
    throughput_per_s: float
    """Images per second, `batch_size` at a time, median over calls."""
    batch_size: int
    num_calls: int
    """With one image; a slow machine stops before `rounds`."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """Poses of frames, and how fast they came: image files to poses on the host."""

    poses: Poses
    images_per_s: float


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
    """`auto` is the GPU where torch can use one, else the CPU; also `cpu`, `cuda` and `cuda:N`.

    Raises ConfigError for any other name, and for a GPU that torch cannot use.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"device {name!r} is not known; accepted: auto, cpu, cuda, cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r}: torch sees no GPU here; `rap doctor` says why")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs, from 0")
    return device


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise ConfigError for arithmetic that the device does not have."""
    try:
        with precision_scope(precision, device):
            pass
    except ConfigError as error:
        # Named there as a training's setting, which is none of inference.
        raise ConfigError(str(error).removeprefix("train.")) from error


def load_run(run: Path, device: torch.device) -> Checkpoint:
    """The best regressor of a run directory, or that of one .safetensors file, on `device`.

    The provenance of a run says what its views were like, too.

    Raises CheckpointError for a file that does not fit, DataError where there is none.
    """
    path = run / "best.safetensors" if run.is_dir() else run
    if not path.is_file():
        raise DataError(_why_no_weights(run))
    checkpoint = load(path, device)
    views = views_used(run / "log.jsonl")
    if views is None:
        return checkpoint
    return replace(checkpoint, provenance=checkpoint.provenance | {"views": views})


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
    check_precision(precision, device)
    for photo in photos:
        if not photo.is_file():
            raise DataError(f"{photo}: no such photograph")
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


def measure_latency(
    locate: Locate,
    camera: Camera,
    device: torch.device,
    batch_size: int = 64,
    rounds: int | None = None,
) -> Latency:
    """Time up to `rounds` calls with one image and as many with a batch, after warm-up.

    None is 1,000 calls with one image and 50 with a batch on a GPU, 50 of either on a CPU. Each
    stops early after about five seconds. The images are grey: the work does not depend on what
    they show.
    """
    on_gpu = device.type == "cuda"
    num_single, num_many = (_ROUNDS[on_gpu], _ROUNDS[False]) if rounds is None else (rounds, rounds)
    batch = torch.full(
        (batch_size, 3, camera.height, camera.width), 128, dtype=torch.uint8, device=device
    )
    single = _times_ms(lambda: locate(batch[:1]), num_single, device)
    many = _times_ms(lambda: locate(batch), num_many, device)
    p50, p95, p99 = (single.quantile(share).item() for share in (0.5, 0.95, 0.99))
    throughput = 1000 * batch_size / many.quantile(0.5).item()
    return Latency(p50, p95, p99, throughput, batch_size, len(single))


def stream(
    frames: Sequence[Frame],
    camera: Camera,
    locate: Locate,
    device: torch.device,
    batch_size: int = 64,
    num_workers: int = 4,
) -> Streamed:
    """Poses of frames, decoded by threads while the device works on the images before.

    They are those that `locate` gives for all images decoded first, in the frames' order. Call
    `locate` once before, if its first call is a slow one: the clock runs from the start. Raises
    DataError for an image that cannot be read.
    """
    if not frames:
        return Streamed(torch.empty(0, 4, 4, dtype=torch.float64), 0.0)
    found: list[Tensor] = []
    start = time.perf_counter()
    with (
        log.progress("localize", len(frames), "images") as tick,
        closing(
            decode_batches(frames, camera, batch_size, num_workers, device.type == "cuda")
        ) as batches,
    ):
        for batch in batches:
            # Both only queue work for a GPU, so that the next batch is fetched meanwhile.
            found.append(locate(batch.to(device, non_blocking=True)))
            tick(len(batch))
    poses = torch.cat(found).cpu().double()
    return Streamed(poses, len(frames) / (time.perf_counter() - start))


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


@torch.no_grad()
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
