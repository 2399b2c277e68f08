"""Checks that the sections of the tree share."""


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
