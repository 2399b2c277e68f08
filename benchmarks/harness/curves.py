"""Curves that a person can look at, from the records of a run: what is drawn is a list in TOML.

A point is a record; records that differ only in what the x axis shows are joined by a line.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from benchmarks.harness.parameters import matches, parameters_of
from benchmarks.harness.record import Record, Session

CURVES = Path("benchmarks/curves.toml")


class CurvesError(ValueError):
    """A list of curves that cannot be used; names the file, the curve and what is accepted."""


@dataclass(frozen=True)
class Curve:
    """One picture: see the head of benchmarks/curves.toml."""

    name: str
    benchmark: str
    x: str
    y: tuple[str, ...]
    along: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    logarithmic: bool = False


@dataclass(frozen=True)
class Point:
    """A record with the value of its x axis and the parameters that name its line."""

    record: Record
    x: float
    line: Mapping[str, str]
    joined: bool
    """To its neighbours on the line; else points stand alone."""
    note: str
    """What moved along the line, where the axis does not say it."""


def read_curves(path: Path) -> tuple[Curve, ...]:
    """The list of curves; CurvesError for anything else."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CurvesError(f"{path}: cannot be read as TOML ({error})") from error
    entries = content.get("curve")
    if set(content) != {"curve"} or not isinstance(entries, list):
        raise CurvesError(f"{path}: holds {', '.join(content)}; accepted are [[curve]] tables")
    return tuple(
        _read(entry, f"{path}: curve {number + 1}") for number, entry in enumerate(entries)
    )


def _read(entry: object, where: str) -> Curve:
    kinds = {"name": str, "benchmark": str, "x": str, "y": list, "along": list, "where": dict,
             "logarithmic": bool}  # fmt: skip
    if not isinstance(entry, dict):
        raise CurvesError(f"{where}: must be a table")
    odd = [key for key, value in entry.items() if not isinstance(value, kinds.get(key, ()))]
    missing = [key for key in ("name", "benchmark", "x", "y") if not entry.get(key)]
    if odd or missing:
        accepted = ", ".join(f"{one.name} ({kinds[one.name].__name__})" for one in fields(Curve))
        raise CurvesError(f"{where}: {', '.join([*odd, *missing])}: accepted are {accepted}")
    lists = {key: tuple(map(str, entry.get(key, ()))) for key in ("y", "along")}
    texts = {key: str(value) for key, value in entry.get("where", {}).items()}
    values: dict[str, Any] = {**entry, **lists, "where": texts}
    return Curve(**values)


def draw(curves: Sequence[Curve], session: Session, folder: Path) -> list[str]:
    """Write a picture of each curve of which a run has two points; a line about each curve."""
    # Matplotlib takes a second to load, which only those who draw shall wait.
    from benchmarks.harness.pictures import picture, write_picture

    folder.mkdir(parents=True, exist_ok=True)
    about = f"{session.machine.describe()}; commit {session.commit}"
    told = []
    for curve in curves:
        points = points_of(curve, session.records)
        panels = [y for y in curve.y if any(y in point.record.metrics for point in points)]
        if len({point.x for point in points}) < 2 or not panels:
            told.append(f"{curve.name}: not drawn, the run has {len(points)} points with {curve.x}")
            continue
        path = folder / f"{curve.name}.png"
        write_picture(picture(curve, labels(points), panels, about), path)
        told.append(f"{path}: {len(points)} points")
    return told


def points_of(curve: Curve, records: Sequence[Record]) -> list[Point]:
    """The records that belong to a curve, by line and x; what failed or is invalid is left out."""
    points = []
    for record in records:
        parameters = parameters_of(record.id)
        fits = all(parameters.get(key, value) == value for key, value in curve.where.items())
        x = _number(parameters[curve.x]) if curve.x in parameters else record.metrics.get(curve.x)
        sound = record.outcome == "passed" and not record.invalid
        if sound and fits and x is not None and matches(curve.benchmark, record.id):
            moving = {curve.x, *curve.along, *curve.where}
            line = {key: value for key, value in parameters.items() if key not in moving}
            note = ", ".join(f"{key} {parameters[key]}" for key in curve.along if key in parameters)
            points.append(Point(record, x, line, curve.x in parameters or bool(note), note))
    return sorted(points, key=lambda point: (*map(_rank, point.line.values()), (0, point.x, "")))


def _rank(value: str) -> tuple[int, float, str]:
    """Numbers by their size, then texts."""
    number = _number(value)
    return (1, 0.0, value) if number is None else (0, number, "")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def labels(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each line under its name: the parameters in which lines differ."""
    values: dict[str, set[str]] = {}
    for point in points:
        for key, value in point.line.items():
            values.setdefault(key, set()).add(value)
    named: dict[str, list[Point]] = {}
    for point in points:
        parts = [f"{key} {value}" for key, value in point.line.items() if len(values[key]) > 1]
        named.setdefault(", ".join(parts), []).append(point)
    return named
