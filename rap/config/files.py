"""Settings from and to TOML, strictly: errors name the file, the key and what is accepted."""

import dataclasses
import json
import sys
import tomllib
import types
import typing
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from rap.config.checks import ConfigError
from rap.config.tree import Config


def preset_names() -> list[str]:
    """Names that `preset` accepts."""
    folder = resources.files("rap") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir()
                  if entry.name.endswith(".toml"))  # fmt: skip


def preset(name: str) -> Config:
    """A named preset; raises ConfigError for an unknown name."""
    if name not in preset_names():
        raise ConfigError(f"preset {name!r} does not exist; there are {', '.join(preset_names())}")
    text = (resources.files("rap") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return from_toml(text, f"preset {name}")


def load(path: Path) -> Config:
    """A configuration file; raises ConfigError naming the file and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from error
    return from_toml(text, str(path))


def from_toml(text: str, source: str) -> Config:
    """Parse TOML strictly; `source` names the text in errors."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from error
    return from_dict(tree, source)


def from_dict(tree: dict[str, Any], source: str) -> Config:
    """Build a Config from nested dictionaries; every key must exist and every value must fit."""
    return _build(Config, tree, source, "")


def to_toml(config: Config) -> str:
    """TOML text that `from_toml` reads back to an equal Config; None is left out."""
    lines = []
    for section in dataclasses.fields(config):
        lines.append(f"[{section.name}]")
        values = dataclasses.asdict(getattr(config, section.name))
        lines += [f"{k} = {_toml_value(v)}" for k, v in values.items() if v is not None]
        lines.append("")
    return "\n".join(lines)


def _toml_value(value: Any) -> str:  # noqa: ANN401 (any TOML scalar)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    # a JSON string is a TOML string, but for the one control character that JSON leaves bare
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _build(cls: type, tree: object, source: str, prefix: str) -> Any:  # noqa: ANN401
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: {prefix.rstrip('.') or 'top level'} must be a table")
    known = {f.name: f.type for f in dataclasses.fields(cls)}
    values = {}
    for key, value in tree.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(known)}"
            raise ConfigError(f"{source}: unknown key {prefix}{key}{hint}")
        kind = known[key]
        if dataclasses.is_dataclass(kind):
            values[key] = _build(typing.cast(type, kind), value, source, f"{prefix}{key}.")
        else:
            values[key] = _coerce(kind, value, source, prefix + key)
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _coerce(kind: Any, value: Any, source: str, key: str) -> Any:  # noqa: ANN401
    """The value as its field's type, or an error; whole numbers may stand for floats."""
    options = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        if value in options:
            return value
        raise ConfigError(
            f"{source}: {key} = {value!r} must be one of {', '.join(map(str, options))}"
        )
    kinds = options if isinstance(kind, types.UnionType) else (kind,)
    if Path in kinds and isinstance(value, str):
        return Path(value)
    if float in kinds and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if type(value) in kinds:
        return value
    names = " or ".join(k.__name__ for k in kinds if k is not type(None))
    raise ConfigError(f"{source}: {key} = {value!r} must be {names}")
