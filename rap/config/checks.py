"""Checks that the sections of the tree share."""

import dataclasses
import math
from typing import Any

MAX_SEED = 2**63 - 1
"""The largest that torch's generators take."""
MAX_INT = 2**31 - 1
"""Counts and sizes above this overflow the indices of kernels."""
MAX_FLOAT = 3.4e38
"""In single precision, in which settings are used, more is infinite."""


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the key, the value and what is accepted."""


def at_least(section: object, prefix: str, low: int, *names: str) -> None:
    """Refuse values below a bound, and NaN, which no training survives."""
    for name in names:
        value = getattr(section, name)
        if value is not None and not value >= low:
            raise ConfigError(f"{prefix}.{name} = {value!r} must be at least {low}")


def in_range(
    section: object, prefix: str, low: int, high: int, *names: str, below: bool = False
) -> None:
    """Refuse values outside [low, high], or with `below` outside [low, high), and NaN."""
    for name in names:
        value = getattr(section, name)
        if not low <= value <= high or (below and value == high):
            accepted = f"at least {low} and below {high}" if below else f"from {low} to {high}"
            raise ConfigError(f"{prefix}.{name} = {value!r} must be {accepted}")


def check_numbers(section: Any, prefix: str) -> None:  # noqa: ANN401 (any dataclass)
    """Refuse what no number of a section may be, whatever it means; for the end of its checks."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if accepted := unusable(field.name, value):
            raise ConfigError(f"{prefix}.{field.name} = {value!r} must be {accepted}")


def unusable(name: str, value: object) -> str | None:
    """What is accepted instead of a number that nothing can be done with; None for all others."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and not (math.isfinite(value) and abs(value) <= MAX_FLOAT):
        return f"a finite number, of a size of at most {MAX_FLOAT:g}"
    if isinstance(value, int) and name == "seed" and not 0 <= value <= MAX_SEED:
        return f"from 0 to {MAX_SEED}"
    if isinstance(value, int) and name != "seed" and abs(value) > MAX_INT:
        return f"at most {MAX_INT} in size"
    return None
