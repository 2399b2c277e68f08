"""Curves as PNG files. The one module of the harness that imports matplotlib."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.harness.curves import Curve, Point

MAX_LINES = 30
MARKERS = "os^Dv<>P*X"
PANEL_INCHES = 5.5
WIDE = 100
"""Times the smallest value from which on an axis is logarithmic."""
LETTERS_PER_INCH = 14
"""Of the title."""
UNITS = {
    "_per_s": (("per second", 1.0),), "_s": (("s", 1.0), ("ms", 1e3), ("µs", 1e6)),
    "_bytes": (("GiB", 2**-30), ("MiB", 2**-20)), "_m": (("m", 1.0), ("mm", 1e3)),
    "_deg": (("deg", 1.0),), "_db": (("dB", 1.0),),
}  # fmt: skip
"""How a metric's name ends, and its units with how many of them one is, the largest first."""


@dataclass(frozen=True)
class Axis:
    """What an axis shows, and in which unit."""

    metric: str
    label: str
    factor: float


def picture(
    curve: Curve, lines: Mapping[str, Sequence[Point]], panels: Sequence[str], about: str
) -> Figure:
    """A panel for each metric, a line for each name."""
    width = PANEL_INCHES * max(len(panels), 1.3)
    figure = Figure(figsize=(width, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    shown = dict(list(lines.items())[:MAX_LINES])
    panes = figure.subplots(1, len(panels), squeeze=False)[0]
    points = [point for line in shown.values() for point in line]
    x = _axis(curve.x, [point.x for point in points])
    for metric, axes in zip(panels, panes, strict=True):
        found = [point.record.metrics[metric] for point in points if metric in point.record.metrics]
        y = _axis(metric, found)
        for number, (name, line) in enumerate(shown.items()):
            _plot(axes, line, x, y, name, number)
        _annotate(axes, points, x, y)
        if curve.logarithmic:
            _logarithmic(axes, sorted({x.factor * point.x for point in points}))
        axes.set_xlabel(x.label)
        axes.set_ylabel(y.label)
        _scale(axes, found)
        axes.grid(visible=True, alpha=0.3)
    if len(lines) > 1:
        handles, names = panes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=7)
    held = ", ".join(f"{key} {value}" for key, value in curve.where.items())
    left = f"; {len(lines) - len(shown)} more lines" if len(lines) > len(shown) else ""
    head = f"{curve.benchmark} ({held})" if held else curve.benchmark
    title = [textwrap.fill(text, int(LETTERS_PER_INCH * width)) for text in (head, about + left)]
    figure.suptitle("\n".join(title), fontsize=9)
    return figure


def _plot(axes: Axes, line: Sequence[Point], x: Axis, y: Axis, name: str, number: int) -> None:
    known = [point for point in line if y.metric in point.record.metrics]
    xs = [x.factor * point.x for point in known]
    ys = [y.factor * point.record.metrics[y.metric] for point in known]
    style = "-" if all(point.joined for point in known) else "none"
    marker = MARKERS[number // 10 % len(MARKERS)]
    axes.plot(xs, ys, linestyle=style, marker=marker, color=f"C{number % 10}", label=name,
              markersize=4)  # fmt: skip


def _annotate(axes: Axes, points: Sequence[Point], x: Axis, y: Axis) -> None:
    """Each note once at an x, at the highest of the points that it holds for."""
    known = [point for point in points if point.note and y.metric in point.record.metrics]
    highest: dict[tuple[float, str], float] = {}
    for point in known:
        key, value = (x.factor * point.x, point.note), y.factor * point.record.metrics[y.metric]
        highest[key] = max(value, highest.get(key, value))
    middle = sum(axes.get_xlim()) / 2
    for (at, note), value in highest.items():
        # Towards the middle, or the last one's would leave the picture.
        left = at > middle
        axes.annotate(note, (at, value), fontsize=7, xytext=(-4 if left else 4, 4),
                      ha="right" if left else "left", textcoords="offset points")  # fmt: skip


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """From zero, or by powers of ten where the smallest would lie on the axis."""
    if min(values) > 0 and max(values) > WIDE * min(values):
        axes.set_yscale("log")
    else:
        top = axes.dataLim.y1
        axes.set_ylim(0, 1.1 * top if top > 0 else None)


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """The values themselves at the ticks, where there are few: they are rarely powers of ten."""
    axes.set_xscale("log")
    if len(values) <= 8:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.xaxis.set_minor_locator(NullLocator())


def _axis(metric: str, values: Sequence[float]) -> Axis:
    """In the largest unit in which something is one or more."""
    ending = next((ending for ending in UNITS if metric.endswith(ending)), "")
    words = metric.removesuffix(ending).replace("_", " ")
    if not ending:
        return Axis(metric, words, 1.0)
    largest = max(map(abs, values))
    units = UNITS[ending]
    unit, factor = next((unit for unit in units if largest * unit[1] >= 1), units[-1])
    return Axis(metric, f"{words} {unit}" if ending == "_per_s" else f"{words} ({unit})", factor)


def write_picture(figure: Figure, path: Path) -> None:
    """As PNG, by rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=120, format="png")
    temporary.replace(path)
