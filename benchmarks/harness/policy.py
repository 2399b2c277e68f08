"""The policy: which metrics of which benchmark can turn a run red, and by how much.

`benchmarks/policy.toml`, read strictly, holds one `[metric.NAME]` table per metric and one
`[[benchmark]]` entry per benchmark or glob; of several entries that match an id, the first holds.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from benchmarks.harness.parameters import matches

T = TypeVar("T", "MetricRule", "Entry")

Family = Literal["time", "memory", "accuracy"]
Better = Literal["lower", "higher"]
Tier = Literal["gate", "advisory"]


class PolicyError(ValueError):
    """A policy that cannot be used; names the file, the entry and what is accepted."""


@dataclass(frozen=True)
class MetricRule:
    """How a metric is judged. Worse by more than max(relative · baseline, absolute) is too much."""

    family: Family
    better: Better
    relative: float = 0.0
    absolute: float = 0.0
    confirm: float | None = None
    """Noisy metrics only: three fresh processes must each be worse by this share, too."""
    device: Literal["any", "cpu", "cuda"] = "any"
    smallest_effect: float | None = None
    """For the paired rule, where this metric of any benchmark is coarser than its other times."""
    enough: float | None = None
    """Better than this is as good: what lies beyond is rounding."""

    def loss(self, baseline: float, now: float) -> float:
        """By how much `now` is worse, in the metric's unit; negative where it is better."""
        if self.enough is not None:
            clip = max if self.better == "lower" else min
            baseline, now = clip(baseline, self.enough), clip(now, self.enough)
        return now - baseline if self.better == "lower" else baseline - now

    def allowed(self, baseline: float, relative: float | None = None) -> float:
        """The largest loss that still passes, in the metric's unit."""
        share = self.relative if relative is None else relative
        return max(share * abs(baseline), self.absolute)


@dataclass(frozen=True)
class Entry:
    """What holds for the benchmarks whose id or bare name matches `name`."""

    name: str
    """An id (`train_step[batch_size=8]`), a bare name (`train_step`) or a glob with * and ?."""
    owner: str
    metrics: tuple[str, ...]
    """The metrics that are gated; all others are recorded and shown only."""
    tier: Tier = "gate"
    smallest_effect: float = 0.03
    """The smallest relative slowdown of interest, for the paired rule."""


@dataclass(frozen=True)
class Policy:
    """Every rule and entry, in the file's order."""

    metrics: Mapping[str, MetricRule]
    entries: tuple[Entry, ...]

    def entry(self, benchmark_id: str) -> Entry | None:
        """The first entry that matches; None: this benchmark is not in the policy."""
        return next((entry for entry in self.entries if matches(entry.name, benchmark_id)), None)


def read_policy(path: Path) -> Policy:
    """Read `policy.toml`; PolicyError where it is missing, malformed or has unknown keys."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path}: cannot be read as TOML ({error})") from error
    unknown = sorted(set(content) - {"metric", "benchmark"})
    if unknown:
        raise PolicyError(f"{path}: unknown {', '.join(unknown)}; accepted are metric, benchmark")
    tables, listed = content.get("metric", {}), content.get("benchmark", [])
    if not isinstance(tables, dict) or not isinstance(listed, list):
        raise PolicyError(f"{path}: write [metric.NAME] tables and [[benchmark]] entries")
    metrics = {
        name: _build(MetricRule, table, f"{path}: metric.{name}") for name, table in tables.items()
    }
    entries = tuple(
        _build(Entry, table, f"{path}: benchmark {number}")
        for number, table in enumerate(listed, start=1)
    )
    for entry in entries:
        unruled = sorted(set(entry.metrics) - set(metrics))
        if unruled:
            raise PolicyError(f"{path}: {entry.name} gates {', '.join(unruled)} without a rule")
    return Policy(metrics, entries)


def _build(kind: type[T], table: object, where: str) -> T:
    if not isinstance(table, dict):
        raise PolicyError(f"{where}: must be a table")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise PolicyError(f"{where}: unknown {', '.join(unknown)}; accepted: {', '.join(fields)}")
    required = {name for name, f in fields.items() if f.default is dataclasses.MISSING}
    missing = sorted(required - set(table))
    if missing:
        raise PolicyError(f"{where}: {', '.join(missing)} missing")
    values = {name: _value(fields[name].type, table[name], f"{where}.{name}") for name in table}
    return kind(**values)


def _value(annotation: Any, value: object, where: str) -> object:  # noqa: ANN401 (any annotation)
    if get_origin(annotation) is Literal:
        if value in get_args(annotation):
            return value
        raise PolicyError(f"{where}: {value!r} is none of {', '.join(get_args(annotation))}")
    if annotation is str and isinstance(value, str):
        return value
    if annotation in (float, float | None):
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return float(value)
        raise PolicyError(f"{where}: {value!r} is not a number >= 0")
    names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if annotation == tuple[str, ...] and names:
        return tuple(value)
    raise PolicyError(f"{where}: {value!r} does not fit")
