"""`rap localize`: the poses of photographs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import rap
from rap.cli.arguments import Device, Photos, Run, UsageError, parse
from rap.config import Precision


@dataclass(frozen=True)
class Localize:
    """Print the poses of photographs from the camera that the network was trained for."""

    photos: Photos
    """Image files."""
    run: Run
    """A run directory, or a .safetensors file of weights."""
    format: Literal["json", "tum"] = "json"
    """JSON, or TUM lines with the photograph's index as timestamp."""
    device: Device = "auto"
    """`auto` is the GPU where there is one."""
    precision: Precision = "fp32"
    """Arithmetic of the network."""


def run(argv: Sequence[str]) -> int:
    """Write to stdout, where other programs read it."""
    arguments: Localize = parse(Localize, "localize", argv)
    if not arguments.photos:
        raise UsageError("give at least one PHOTO")

    from rap.evaluate import json_text, tum_text

    poses = rap.localize(arguments.photos, arguments.run, arguments.device, arguments.precision)
    names = [str(photo) for photo in arguments.photos]
    sys.stdout.write(tum_text(poses) if arguments.format == "tum" else json_text(names, poses))
    return 0
