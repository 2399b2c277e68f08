"""From words on the command line to typed arguments, settings and paths that can be written."""

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import rap
from rap import config as settings
from rap.config import Config, ConfigError
from rap.config.checks import unusable

_POSITIONAL = tyro.conf.Positional

SceneName = Annotated[str, _POSITIONAL, tyro.conf.arg(metavar="SCENE")]
"""A scene's folder, or the word `room`."""
NewFolder = Annotated[Path, _POSITIONAL, tyro.conf.arg(metavar="OUT")]
Photos = Annotated[tuple[Path, ...], _POSITIONAL, tyro.conf.arg(metavar="PHOTO")]
CheckpointFile = Annotated[Path, _POSITIONAL, tyro.conf.arg(metavar="CHECKPOINT")]
Out = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
OptionalOut = Annotated[Path | None, tyro.conf.arg(aliases=["-o"])]
Run = Annotated[Path, tyro.conf.arg(aliases=["-p"])]
OptionalRun = Annotated[Path | None, tyro.conf.arg(aliases=["-p"])]
Device = Literal["auto", "cpu", "cuda"]
SceneFormat = Literal["seven_scenes", "cambridge", "colmap", "transforms"]
FLAT = tyro.conf.arg(name="")
"""Annotates nested arguments whose flags carry no prefix."""
subcommand = tyro.conf.subcommand


class UsageError(ValueError):
    """Arguments that cannot be used; the message names the argument and what is accepted."""


def parse(kind: Any, command: str, argv: Sequence[str], default: object = None) -> Any:  # noqa: ANN401 (returns a `kind`)
    """Arguments of a command; UsageError says in one line what cannot be used.

    `kind` is a dataclass, or a union of them that are subcommands. tyro explains mistakes in a
    framed box of many lines; its text is kept and the frame dropped.
    """
    box = io.StringIO()
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(kind, prog=f"rap {command}", args=list(argv), **options)
    except SystemExit as stop:
        if not stop.code:
            raise
    except ValueError as error:
        # A dataclass refused its values, which it calls by its own name.
        raise UsageError(re.sub(r"\b[A-Z]\w*\.(\w+)", _flag, str(error))) from error
    raise UsageError(f"{_unframed(box.getvalue())}; see rap {command} --help")


def parse_configured(kind: type, command: str, argv: Sequence[str]) -> tuple[Any, Config]:
    """Arguments with fields `scene`, `preset`, `config` and sections of Config, and the settings.

    Settings come from the preset or file, changed by flags such as `--fit.iterations`. They are
    therefore parsed twice: for the name of the preset, then with its values as defaults.
    """
    first = parse(kind, command, argv)
    start = _starting_config(first)
    names = {field.name for field in dataclasses.fields(Config)} & set(vars(first))
    default = dataclasses.replace(first, **{name: getattr(start, name) for name in names})
    final = parse(kind, command, argv, default)
    changed = {name: getattr(final, name) for name in names}
    return final, dataclasses.replace(start, **changed)


def read_camera(text: str) -> "rap.camera.Camera":
    """Intrinsics from a `camera.json`, or of a scene."""
    if text.endswith(".json"):
        from rap.data.validate import read_camera

        return read_camera(Path(text))
    from rap.data import load

    return load(text).camera


def check_at_least(low: int, **values: int | float | None) -> None:
    """Raise UsageError naming the first flag whose number is too small or cannot be used.

    None is no number.
    """
    for name, value in values.items():
        accepted = unusable(name, value)
        if value is not None and value < low:
            accepted = f"at least {low}"
        if accepted is not None:
            raise UsageError(f"--{name.replace('_', '-')} = {value} must be {accepted}")


def check_out(path: Path, *, force: bool = False, suffix: str | None = None) -> None:
    """Raise UsageError unless a file can be written there, before the work that makes it."""
    if suffix is not None and path.suffix != suffix:
        raise UsageError(f"{path}: the name must end in {suffix}")
    _check_parent(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; a file is to be written there")
    if path.exists() and not force:
        raise UsageError(f"{path}: exists; name another file, or overwrite it with --force")


def check_out_folder(path: Path, *, reuse: bool = False) -> None:
    """Raise UsageError unless a folder can be filled there: a new or empty one, or with `reuse`."""
    _check_parent(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file; a folder is to be written there")
    if path.exists() and not reuse and any(path.iterdir()):
        raise UsageError(f"{path}: exists and is not empty; name another folder")


def _check_parent(path: Path) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{path}: the folder {parent} does not exist; make it first")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{path}: the folder {parent} cannot be written")


def _starting_config(arguments: Any) -> Config:  # noqa: ANN401 (any arguments with these fields)
    """The file, the preset, what a resumed run was started with, or the default preset."""
    if arguments.config is not None and arguments.preset is not None:
        raise UsageError("--preset and --config: give one of them, it holds all settings")
    if arguments.config is not None:
        return _read_config(arguments.config)
    if arguments.preset is not None:
        return settings.preset(arguments.preset)
    # a splat that is resumed has no folder with its settings: its command is repeated
    if getattr(arguments, "resume", False) and arguments.out.suffix != ".ply":
        stored = arguments.out / "config.toml"
        if not stored.is_file():
            raise UsageError(f"{arguments.out}: holds no run to resume (no config.toml)")
        return settings.load(stored)
    return settings.preset("room" if arguments.scene == "room" else "seven_scenes")


def _read_config(path: Path) -> Config:
    if path.suffix == ".toml":
        return settings.load(path)
    if path.suffix == ".txt":
        from rap.model.upstream import read_config

        return read_config(path)
    raise ConfigError(f"{path}: accepted are our .toml files and the published RAP code's .txt")


def _flag(field: re.Match[str]) -> str:
    return f"--{field[1].replace('_', '-')}"


def _unframed(box: str) -> str:
    """The text in a box drawn with line characters, without its title, rulers and footer."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [re.sub(r"[│|]", "", line).strip() for line in plain.splitlines()]
    text = [line for line in lines if not re.match(r"[╭╰─+]", line)]
    return re.sub(r"[\s;]*For full helptext.*", "", " ".join(filter(None, text)))
