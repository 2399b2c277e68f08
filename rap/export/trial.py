"""Machine code is tried out where a crash is an answer: in a process of its own.

Images and poses go there and back as safetensors files in a temporary folder.
"""

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rap.evaluate import PoseErrors, pose_errors, predict
from rap.export.details import ExportError
from rap.export.stops import held, terminable
from rap.model.checkpoint import Checkpoint
from rap.model.infer import PoseNetwork
from rap.model.precision import tf32_scope
from rap.model.regressor import Regressor

IMAGES, POSES, STAGE = "images.safetensors", "poses.safetensors", "stage.txt"
LIMIT_S = 900.0
"""For a crash that never comes. Torch takes 12 s to be imported where its sources are compiled each
time, and a busy machine many times that."""
_LOOK_EVERY_S = 0.2
_BATCH = 16
_MAX_OFF = 0.05
"""Of the scene's spread, and of a unit vector: 3 degrees; arithmetic alone is a thousandth."""
_MAX_ROUNDINGS = 10.0
"""How many times what the precision itself costs in eager mode."""
_POSSIBLE = (
    "possible are `rap export onnx`, another --device, another version of torch (this is "
    f"{torch.__version__})"
)


def try_out(package: Path, path: Path, regressor: Regressor, network: PoseNetwork) -> None:
    """Raise ExportError unless the package gives the regressor's poses for one image and for two.

    `path` is what the package is to be called, `network` the regressor in the package's precision.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, *network.size), dtype=torch.uint8, generator=generator)
    device = network.scale.device
    called = f"{path}: not written"
    alone, both = _locate(package, [images[:1], images], device, called)
    with torch.no_grad(), tf32_scope("fp32"):
        rounded = network(images.to(device)).cpu()
    plain = predict(regressor, images, device).float()
    limit = _MAX_OFF + _MAX_ROUNDINGS * _apart(rounded, plain, network)
    off = max(_apart(alone, plain[:1], network), _apart(both, plain, network))
    if off > limit:
        raise ExportError(
            f"{called}: its poses are off the regressor's by {off:.2g} of the scene's spread or of "
            f"a unit vector, at most {limit:.2g} is accepted; {_POSSIBLE}"
        )


def locate_apart(
    path: Path, batches: Sequence[UInt8[Tensor, "_b 3 h w"]], device: torch.device
) -> list[Float[Tensor, "_b 4 4"]]:
    """Poses of each batch by a file of `rap export`, run in a process that ends with this call.

    Raises ExportError, which names the file, where that process crashes, fails or hangs.
    """
    return _locate(path, batches, device, str(path))


def off_regressor_apart(
    path: Path, checkpoint: Checkpoint, images: UInt8[Tensor, "n 3 h w"]
) -> PoseErrors:
    """`off_regressor` of a file that is loaded and run in a process of its own.

    Raises ExportError as `locate_apart` does.
    """
    device = checkpoint.regressor.image_mean.device
    found = torch.cat(locate_apart(path, images.split(_BATCH), device))
    return pose_errors(found.double(), predict(checkpoint.regressor, images, device))


def _locate(
    path: Path, batches: Sequence[UInt8[Tensor, "_b 3 h w"]], device: torch.device, called: str
) -> list[Float[Tensor, "_b 4 4"]]:
    # Of its own memory each: safetensors takes no views.
    named = {f"{n:06}": torch.empty(x.shape, dtype=x.dtype).copy_(x) for n, x in enumerate(batches)}
    with terminable(), tempfile.TemporaryDirectory(prefix="rap-export-") as name:
        folder = Path(name)
        save_file(named, folder / IMAGES)
        happened = _run(_command(path, device, folder), folder, LIMIT_S)
        poses: dict[str, Tensor] = {}
        if not happened:
            try:
                poses = load_file(folder / POSES)
            except (OSError, SafetensorError) as error:
                happened = f"gave no poses that can be read ({error})"
    shapes = {key: (len(images), 4, 4) for key, images in named.items()}
    if not happened and shapes != {key: tuple(found.shape) for key, found in poses.items()}:
        happened = f"gave {len(poses)} results that are not poses of the images"
    if happened:
        happened = happened.replace(str(path.absolute()), path.name)
        raise ExportError(f"{called}: its machine code {happened}; {_POSSIBLE}")
    return [poses[key].float() for key in named]


def _apart(
    found: Float[Tensor, "b 4 4"], expected: Float[Tensor, "b 4 4"], network: PoseNetwork
) -> float:
    """The largest difference of rotations' entries, and of centres in units of the scene's spread.

    What is not finite is infinitely far.
    """
    off = (found - expected).abs()
    off[:, :3, 3] /= network.translation_scale.cpu()
    return float(off.nan_to_num(nan=math.inf).max())


def _command(path: Path, device: torch.device, folder: Path) -> list[str]:
    words = [str(path.absolute()), str(device), str(folder)]
    return [sys.executable, "-P", "-m", "rap.export.apart", *words]


def _run(command: Sequence[str], folder: Path, limit_s: float) -> str:
    """Run to the end; what went wrong, or nothing. The process does not outlive this call."""
    # What we import, it finds: from an installation or a tree, wherever it was started.
    found = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    # What torch unpacks and a crash leaves goes with the folder.
    environment = os.environ | {"PYTHONPATH": found, "TMPDIR": str(folder)}
    said = folder / "stderr.txt"
    with said.open("wb") as stderr, held() as stops:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=stderr, start_new_session=True,
        )  # fmt: skip
        try:
            code = _wait(process, limit_s, stops)
        finally:
            _kill(process)
    stage = folder / STAGE
    when = stage.read_text() if stage.exists() else "before it was loaded"
    if stops:
        what = f"was stopped {when}"
    elif code is None:
        what = f"did not end within {limit_s:.0f} s: it hung {when}"
    elif code < 0:
        what = f"crashed {when}: signal {-code}{_signal_name(-code)}"
    elif code > 0:
        what = f"failed {when}: exit code {code}"
    else:
        return ""
    lines = said.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{what} ({last[:500]})" if last else what


def _wait(process: "subprocess.Popen[bytes]", limit_s: float, stops: Sequence[int]) -> int | None:
    """Its exit code; None where it takes longer, or where a stop came."""
    end = time.monotonic() + limit_s
    while not stops and time.monotonic() < end:
        try:
            return process.wait(_LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            continue
    return process.poll()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End it and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # all have ended
        pass
    finally:
        process.wait()


def _signal_name(number: int) -> str:
    """Real-time signals have none."""
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""
