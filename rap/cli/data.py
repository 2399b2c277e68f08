"""`rap data check` and `rap data room`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from rap.cli.arguments import (
    FLAT,
    NewFolder,
    SceneFormat,
    SceneName,
    check_out_folder,
    parse,
    subcommand,
)
from rap.data.room import RoomSpec


@dataclass(frozen=True)
class Check:
    """Say what a scene holds, and whether its poses, axes and units look right."""

    scene: SceneName
    """The scene's folder, or the word `room`."""
    format: SceneFormat | None = None
    """Read the folder in this format; none: recognise it."""


@dataclass(frozen=True)
class Room:
    """Write the procedural room in the 7-Scenes layout."""

    out: NewFolder
    """The folder to make."""
    spec: Annotated[RoomSpec, FLAT] = field(default_factory=RoomSpec)


_Command = Annotated[Check, subcommand("check")] | Annotated[Room, subcommand("room")]


def run(argv: Sequence[str]) -> int:
    """Exit code 1 for a scene whose check found an error, 0 with warnings only."""
    command: Check | Room = parse(_Command, "data", argv)
    return _check(command) if isinstance(command, Check) else _room(command)


def _check(command: Check) -> int:
    from rap.data import load
    from rap.data.check import check, show

    report = check(load(command.scene, command.format))
    show(report)
    return int(any(finding.level == "error" for finding in report.findings))


def _room(command: Room) -> int:
    from rap import log
    from rap.data.room import write

    check_out_folder(command.out)
    write(command.spec, command.out)
    spec = command.spec
    log.info(f"wrote {spec.num_train} training and {spec.num_test} test frames to {command.out}")
    return 0
