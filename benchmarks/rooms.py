"""The procedural room, drawn once by each version of the package: every process needs it.

Drawing takes 3 s of one core at the size that a GPU's benchmarks use, reading 0.03.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.harness.subject import measured_subject
from rap import log
from rap.camera import Camera
from rap.data.room import RoomSpec, make
from rap.scene import Frame, Points, Scene

FOLDER = Path(__file__).parents[1] / ".benchmarks" / "rooms"
NUM_KEPT = 4
"""Files, of 4 to 22 MB each; older ones are of code that is gone."""
ABOUT = "scene"
SPLITS = ("train", "test")


def room(spec: RoomSpec, folder: Path = FOLDER) -> Scene:
    """What `make` draws, equal to the bit, kept in a file of this code and no other.

    That is the sources of the package and of this module, the versions of torch and numpy, the
    instruction set. Where no file can be read or written, it is drawn all the same.
    """
    path = folder / f"{_key(spec)}.safetensors"
    try:
        return _read(path)
    except (OSError, SafetensorError, RuntimeError):  # torch's own: the file has just been removed
        drawn = make(spec)
    try:
        _keep(drawn, path)
    except (OSError, SafetensorError) as error:
        log.info(f"{path}: the room is not kept, so each process draws it: {error}")
    return drawn


def _keep(drawn: Scene, path: Path) -> None:
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    log.sweep(folder)
    with log.replacing(path) as temporary:
        _write(drawn, temporary)
    for old in sorted(folder.glob("*.safetensors"), key=_newest_first)[NUM_KEPT:]:
        old.unlink(missing_ok=True)


def _key(spec: RoomSpec) -> str:
    subject = measured_subject()
    assert subject is not None, "this module imports the package"
    versions = (torch.__version__, np.__version__, torch.backends.cpu.get_cpu_capability())
    found = hashlib.sha256(repr((subject.digest, spec, versions)).encode())
    found.update(Path(__file__).read_bytes())
    return found.hexdigest()[:16]


def _newest_first(path: Path) -> float:
    """A file that another process has just removed comes last."""
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _write(scene: Scene, path: Path) -> None:
    points = scene.points
    assert points is not None, "a room has points"
    tensors = {"xyz": points.xyz, "rgb": points.rgb}
    for frame in (*scene.train, *scene.test):
        tensors[f"{frame.name}.pose"] = frame.world_from_camera
        tensors[f"{frame.name}.image"] = torch.as_tensor(frame.image)
        tensors[f"{frame.name}.depth"] = torch.as_tensor(frame.depth)
    about = {
        "name": scene.name, "source": scene.source, "camera": asdict(scene.camera),
        **{split: [frame.name for frame in getattr(scene, split)] for split in SPLITS},
    }  # fmt: skip
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={ABOUT: json.dumps(about)})


def _read(path: Path) -> Scene:
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()[ABOUT])

        def tensor(name: str) -> Tensor:
            """In memory of its own: a page of the file would be read when somebody touches it."""
            return file.get_tensor(name).clone()

        def frames(names: Sequence[str]) -> tuple[Frame, ...]:
            return tuple(
                Frame(
                    name, tensor(f"{name}.pose"),
                    tensor(f"{name}.image").numpy(), tensor(f"{name}.depth").numpy(),
                ) for name in names
            )  # fmt: skip

        points = Points(tensor("xyz"), tensor("rgb"))
        train, test = (frames(about[split]) for split in SPLITS)
    return Scene(about["name"], about["source"], Camera(**about["camera"]), train, test, points)
