"""All that a fit changes, and the file from which an interrupted fit goes on."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rap import log
from rap.camera import Camera
from rap.config import FitConfig
from rap.scene import Points
from rap.splat.appearance_file import appearance_path
from rap.splat.classic import Statistics
from rap.splat.density import Parameters
from rap.splat.initial import FitError
from rap.splat.light import Light
from rap.splat.objective import Targets

VERSION = "1"
_DIGEST_STEP_PX = 8
_TOLD = ("fingerprint", "device", "iteration")
_MOMENTS = ("exp_avg", "exp_avg_sq")
_MAX_TOLD = 3
"""Of the problems of a file, in one message."""


@dataclass(frozen=True)
class Saving:
    """Where a fit keeps what it has, so that it can be looked at, and go on after an end."""

    state: Path
    """A safetensors file with everything."""
    preview: Path | None = None
    """A .ply of the Gaussians as they are, written together with the state."""
    every_s: float = 60.0
    resume: bool = False
    """Go on from the state."""

    def clear(self) -> None:
        """Remove what was stored, once the result is."""
        self.state.unlink(missing_ok=True)
        if self.preview is not None:
            self.preview.unlink(missing_ok=True)
            appearance_path(self.preview).unlink(missing_ok=True)


@dataclass
class FitState:
    """Where a fit is; everything else follows from its settings and its input."""

    parameters: Parameters
    """Per Gaussian; each is the only one of the optimiser's group of its name."""
    light: Light
    optimizer: torch.optim.Adam
    generator: torch.Generator
    statistics: Statistics | None
    """Of the classic strategy only."""
    iteration: int = 0
    """Steps done."""


def fingerprint(
    targets: Targets,
    poses: Float[Tensor, "n 4 4"],
    camera: Camera,
    points: Points,
    config: FitConfig,
) -> str:
    """A hash of what must not change before a fit goes on; of pictures, every 64th pixel."""
    digest = hashlib.sha256(f"{config}{camera}{tuple(targets.images.shape)}".encode())
    pictures = (targets.images, targets.depths, targets.masks)
    step = _DIGEST_STEP_PX
    samples = [stack[..., ::step, ::step] for stack in pictures if stack is not None]
    for tensor in (*samples, poses, points.xyz, points.rgb):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_state(path: Path, state: FitState, mark: str) -> None:
    """Write all of it as safetensors, in place of the last state once it is complete."""
    tensors = {"generator": state.generator.get_state()}
    if state.statistics is not None:
        tensors |= {f"statistics.{name}": value for name, value in vars(state.statistics).items()}
    for group in state.optimizer.param_groups:
        parameter = group["params"][0]
        tensors[f"parameter.{group['name']}"] = parameter.detach()
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"{key}.{group['name']}"] = value
    told = {
        "version": VERSION,
        "fingerprint": mark,
        "iteration": state.iteration,
        "device": state.generator.device.type,
    }
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with log.replacing(path) as temporary:
        save_file(contiguous, temporary, metadata={"fit": json.dumps(told)})


def load_state(path: Path, state: FitState, mark: str, num_steps: int) -> None:
    """Bring a fit that is about to start to where the stored one was, of `num_steps` in all.

    FitError if it cannot be; the fit is then as it was.
    """
    told, tensors = _read(path)
    if told.get("version") != VERSION:
        raise FitError(
            f"{path}: state version {told.get('version')!r}, this code reads {VERSION}; fit anew"
        )
    if missing := [name for name in _TOLD if name not in told]:
        raise _unusable(path, f"{', '.join(missing)} missing")
    if told["fingerprint"] != mark:
        raise FitError(
            f"{path}: the fit was started with other settings, images or points; resume with the "
            "same ones, or fit anew without --resume"
        )
    if told["device"] != state.generator.device.type:
        raise FitError(
            f"{path}: the fit was started on {told['device']}, whose random draws only go on there;"
            f" resume with --device {told['device']}"
        )
    iteration = told["iteration"]
    if type(iteration) is not int or not 1 <= iteration <= num_steps:
        raise _unusable(path, f"iteration {iteration!r}; the fit has steps 1 to {num_steps}")
    if problems := _problems(state, tensors):
        more = f"; and {len(problems) - _MAX_TOLD} more" if len(problems) > _MAX_TOLD else ""
        raise _unusable(path, "; ".join(problems[:_MAX_TOLD]) + more)
    try:
        state.generator.set_state(tensors.pop("generator"))
    except RuntimeError as error:
        raise _unusable(path, "generator holds no state of one") from error
    _restore(state, tensors)
    state.iteration = iteration


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the file says of itself, and its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {}).get("fit", "{}"))
            # copies, which lie where torch puts its own: products of what lies elsewhere in memory
            # are rounded differently, and the file's tensors lie behind a header of any length
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise FitError(
            f"{path}: no state of a fit that can be read ({error}); delete it and fit anew"
        ) from error
    if not isinstance(told, dict):
        raise _unusable(path, f"its header holds {type(told).__name__}")
    return told, tensors


def _unusable(path: Path, reason: str) -> FitError:
    return FitError(f"{path}: no whole state of this fit: {reason}; delete it and fit anew")


def _problems(state: FitState, tensors: dict[str, Tensor]) -> list[str]:
    """Tensors that are missing, unknown, of another kind than the fit's, or not finite."""
    means = tensors.get("parameter.means")
    if means is None or means.ndim != 2 or not len(means):
        return [f"parameter.means {'is missing' if means is None else 'holds no Gaussians'}"]
    num = len(means)
    expected = _expected(state, num)
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is unknown" for name in tensors if name not in expected]
    for name, (dtype, shape) in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            continue
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            kind = f"{tensor.dtype} {list(tensor.shape)}"
            problems.append(f"{name} is {kind} instead of {dtype} {list(shape)}")
        elif not tensor.isfinite().all():
            problems.append(f"{name} is not finite")
    return problems


def _expected(state: FitState, num: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Kind and shape of every tensor of a fit that has `num` Gaussians."""
    generator = state.generator.get_state()
    expected = {"generator": (generator.dtype, tuple(generator.shape))}
    if state.statistics is not None:
        expected |= {
            f"statistics.{name}": (torch.float32, (num,)) for name in vars(state.statistics)
        }
    for name, parameter in (state.parameters | state.light).items():
        shape = tuple(parameter.shape)
        if name in state.parameters:
            shape = (num, *shape[1:])
        expected |= {f"{kind}.{name}": (torch.float32, shape) for kind in ("parameter", *_MOMENTS)}
        expected[f"step.{name}"] = (torch.float32, ())
    return expected


def _restore(state: FitState, tensors: dict[str, Tensor]) -> None:
    device = state.generator.device
    if state.statistics is not None:
        names = vars(state.statistics)
        stored = {name: tensors.pop(f"statistics.{name}").to(device) for name in names}
        state.statistics = Statistics(**stored)
    state.optimizer.state.clear()
    for group in state.optimizer.param_groups:
        name = group["name"]
        parameter = nn.Parameter(tensors.pop(f"parameter.{name}").to(device))
        moments = [key for key in tensors if key.endswith(f".{name}")]
        state.optimizer.state[parameter] = {
            key.removesuffix(f".{name}"): tensors.pop(key).to(device) for key in moments
        }
        group["params"] = [parameter]
        (state.parameters if name in state.parameters else state.light)[name] = parameter
