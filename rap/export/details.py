"""What an exported network says about itself, as strings in its file's metadata."""

import dataclasses
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from rap.camera import Camera
from rap.model.checkpoint import CheckpointError, checked_camera
from rap.model.regressor import IMAGENET_MEAN, IMAGENET_STD

FORMAT = "rap-artifact"
VERSION = "2"
INPUT, OUTPUT = "images", "world_from_camera"
MAX_BATCH = 1024


class ExportError(ValueError):
    """A network that cannot be exported, or a file that is no exported network; says why."""


@dataclass(frozen=True)
class Details:
    """All that a program needs to know to use the file, and where it came from."""

    camera: Camera
    """Of the images that go in."""
    precision: str
    device: str
    """`cpu` or `cuda`: where it was exported for; ONNX runs on both."""
    provenance: dict[str, str]

    def strings(self) -> dict[str, str]:
        """For a metadata table."""
        mean, std = list(IMAGENET_MEAN), list(IMAGENET_STD)
        return {
            "format": FORMAT,
            "version": VERSION,
            "input": f"{INPUT}: uint8 [batch, 3, {self.camera.height}, {self.camera.width}], RGB, "
            f"contiguous, batch 1 to {MAX_BATCH}; a .pt2 refuses others",
            "output": f"{OUTPUT}: float32 [batch, 4, 4], OpenCV axes, metres",
            "normalisation": json.dumps({"inside": True, "mean": mean, "std": std, "scale": 255}),
            "camera": json.dumps(dataclasses.asdict(self.camera)),
            "precision": self.precision,
            "device": self.device,
            "provenance": json.dumps(self.provenance),
        }


def read_details(path: Path, strings: Mapping[str, str]) -> Details:
    """The details in a file's metadata; ExportError where it holds none of ours."""
    found = strings.get("format"), strings.get("version")
    if found != (FORMAT, VERSION):
        raise ExportError(
            f"{path}: format {found[0]!r} version {found[1]!r}; accepted: {FORMAT!r} version "
            f"{VERSION!r}, as `rap export` writes it"
        )
    try:
        camera = checked_camera(path, json.loads(strings["camera"]))
        provenance = json.loads(strings["provenance"])
        return Details(camera, strings["precision"], strings["device"], dict(provenance))
    except (KeyError, AttributeError, TypeError, json.JSONDecodeError, CheckpointError) as error:
        raise ExportError(f"{path}: its metadata is damaged: {error}") from error


def check_size(path: Path, camera: Camera, size: Sequence[object]) -> None:
    """ExportError unless the camera has the width and height that the graph itself takes."""
    if (camera.width, camera.height) != tuple(size):
        raise ExportError(
            f"{path}: its metadata name a camera of {camera.width}x{camera.height}, but its graph "
            f"takes images of {'x'.join(map(str, size))}: edited; export it again"
        )


def need(package: str, purpose: str) -> ModuleType:
    """An optional package; ExportError with the command that installs it.

    ONNX Runtime reports its use to its maker unless the environment says otherwise when it is first
    imported (1.30 to 1.32 at least), and keeps a number of this machine: not for what we start.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        raise ExportError(
            f"{purpose} needs {name}: pip install onnx onnxruntime onnxscript ({error})"
        ) from error
