"""Configuration files of the published RAP code as our configuration.

Read as `configargparse` reads them (`key = value` lines, `#` and `;` comments, lists in brackets),
but nothing is evaluated. What a file leaves out has the published default.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from rap import log
from rap.config import Config, ConfigError, FeatureLoss, from_dict

Change = dict[str, Any]

PUBLISHED: Change = {
    "train.epochs": 2000,
    "train.batch_size": 8,
    "train.learning_rate": 1e-4,
    "train.schedule": "plateau",
    "train.feature_loss": "vicreg",
    "train.translation_log_weight": 3.0,
    "train.rotation_log_weight": 6.5,
    "train.precision": "fp16",
    "train.execution": "compiled",
    "train.patience": 200,
    "train.seed": 7,
    "views.translation_m": 5.0,
    "views.rotation_deg": 1.2,
    "views.refresh_epochs": 2,
    "views.bounds_margin_m": 1.0,
    "views.max_attempts": 100,
    "weights.pose": 1.0,
    "weights.rendered": 1.0,
    "weights.feature": 1.0,
    "weights.view": 1.0,
    "weights.adversarial": 0.7,
}
"""Defaults of the published command line. BatchNorm is not among them: the published code freezes
ImageNet statistics, which no configuration file brings along, so it stays as ours."""


def read_config(path: Path) -> Config:
    """The published configuration as ours; keys without a counterpart are named in a warning.

    Raises ConfigError for a file that cannot be read and, naming file and line, for a value that
    cannot be used.
    """
    config, left_out = parse_config(path)
    if left_out:
        log.warn(f"{path}: no counterpart here, left out: {', '.join(left_out)}")
    return config


def parse_config(path: Path) -> tuple[Config, list[str]]:
    """What `read_config` returns, and the keys that have no counterpart."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from error
    settings: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(lines, start=1):
        place = f"{path}:{number}"
        key, value = _split(line, place)
        if key:
            settings[key] = place, value
    changes = dict(PUBLISHED)
    known = [key for key in settings if key in CONVERSIONS]
    # `amp` last: without it, the type that `amp_dtype` names is not used.
    for key in sorted(known, key="amp".__eq__):
        place, value = settings[key]
        try:
            changes |= CONVERSIONS[key](value)
        except ValueError as error:
            raise ConfigError(f"{place}: {key} = {value!r}: {error}") from error
    tree: dict[str, Any] = {}
    for name, value in changes.items():
        section, field = name.split(".")
        tree.setdefault(section, {})[field] = value
    return from_dict(tree, str(path)), [key for key in settings if key not in CONVERSIONS]


def _split(line: str, place: str) -> tuple[str, str]:
    """Key and text of a line, no key where it sets nothing; a lone key means true."""
    line = re.sub(r"(^|\s)[#;].*", "", line).strip()
    if not line or line.startswith("---") or re.fullmatch(r"\[.*\]", line):
        return "", ""
    found = re.fullmatch(r"-{0,2}([A-Za-z_]\w*)(?:\s*[=:]\s*|\s+|$)(.*)", line)
    if found is None:
        raise ConfigError(f"{place}: {line!r} is not a `key = value` line")
    key, value = found.groups()
    return key, value.strip().strip("'\"") or "true"


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError("must not be negative")
    return value


def _positive_whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("must be at least 1")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return value


def _size(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise ValueError("must not be negative")
    return value


def _flag(text: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise ValueError("must be true or false")
    return known[text.lower()]


def _items(text: str, num: int) -> list[str]:
    items = [item.strip(" '\"") for item in text.strip("[]() ").split(",")]
    if len(items) != num:
        raise ValueError(f"must be {num} values: [a, b, ...]")
    return items


def _to(name: str, parse: Callable[[str], Any]) -> Callable[[str], Change]:
    return lambda text: {name: parse(text)}


def _feature_loss(text: str) -> Change:
    if text not in get_args(FeatureLoss):
        raise ValueError(f"must be one of {', '.join(get_args(FeatureLoss))}")
    return {"train.feature_loss": text}


def _loss_weights(text: str) -> Change:
    """Pose of photographs and renderings, features, views, adversarial."""
    pose, feature, view, adversarial = (_size(item) for item in _items(text, 4))
    return {
        "weights.pose": pose,
        "weights.rendered": pose,
        "weights.feature": feature,
        "weights.view": view,
        "weights.adversarial": adversarial,
    }


def _levels(text: str) -> Change:
    """Levels such as `reduction_4`, the translation branch's first."""
    items = _items(text, 2)
    if not all(re.fullmatch(r"reduction_[1-5]", item) for item in items):
        raise ValueError("must be two of reduction_1 to reduction_5")
    translation, rotation = (int(item[-1]) for item in items)
    return {"model.translation_level": translation, "model.rotation_level": rotation}


def _precision(text: str) -> Change:
    known = {"torch.float16": "fp16", "torch.half": "fp16", "torch.bfloat16": "bf16"}
    if text not in known:
        raise ValueError(f"must be one of {', '.join(known)}")
    return {"train.precision": known[text]}


def _mixed(text: str) -> Change:
    """Without autocast the published code computes in TensorFloat-32."""
    return {} if _flag(text) else {"train.precision": "tf32"}


def _compiled(text: str) -> Change:
    return {"train.execution": "compiled" if _flag(text) else "eager"}


def _frozen(text: str) -> Change:
    return {"model.batch_norm": "frozen" if _flag(text) else "live"}


CONVERSIONS: dict[str, Callable[[str], Change]] = {
    "epochs": _to("train.epochs", _positive_whole),
    "batch_size": _to("train.batch_size", _positive_whole),
    "learning_rate": _to("train.learning_rate", _size),
    "feature_loss": _feature_loss,
    "loss_weights": _loss_weights,
    "s_x": _to("train.translation_log_weight", lambda text: -_number(text)),
    "s_q": _to("train.rotation_log_weight", lambda text: -_number(text)),
    "amp": _mixed,
    "amp_dtype": _precision,
    "compile_model": _compiled,
    "patience": lambda text: {"train.patience": _whole(_items(text, 2)[0])},
    "seed": _to("train.seed", _whole),
    "rvs_trans": _to("views.translation_m", _size),
    "rvs_rotation": _to("views.rotation_deg", _size),
    "rvs_refresh_rate": _to("views.refresh_epochs", _positive_whole),
    "d_max": _to("views.bounds_margin_m", _size),
    "max_attempts": _to("views.max_attempts", _positive_whole),
    "reduction": _levels,
    "hidden_dim": _to("model.dim", _positive_whole),
    "num_heads": _to("model.heads", _positive_whole),
    "feedforward_dim": _to("model.feedforward", _positive_whole),
    "num_encoder_layers": _to("model.layers", _positive_whole),
    "dropout": _to("model.dropout", _size),
    "freeze_batch_norm": _frozen,
    "val_num_workers": _to("image.num_workers", _whole),
}
