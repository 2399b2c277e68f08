"""Curves as PNG files. The one module of the harness that imports matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.harness.curves import Curve, Point

MAX_LINES = 30
MARKERS = "os^Dv<>P*X"
UNITS = {"_bytes": ("MiB", 2**-20), "_per_s": ("1/s", 1.0), "_s": ("ms", 1e3)}
"""How a metric's name ends: the unit that is shown, and how many of it one is."""


def picture(
    curve: Curve, lines: Mapping[str, Sequence[Point]], panels: Sequence[str], about: str
) -> Figure:
    """A panel for each metric, a line for each name."""
    figure = Figure(figsize=(5.5 * len(panels), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    shown = dict(list(lines.items())[:MAX_LINES])
    panes = figure.subplots(1, len(panels), squeeze=False)[0]
    for metric, axes in zip(panels, panes, strict=True):
        for number, (name, line) in enumerate(shown.items()):
            _plot(axes, curve, metric, line, name, number)
        if curve.logarithmic:
            _logarithmic(axes, curve, shown)
        axes.set_xlabel(_axis(curve.x))
        axes.set_ylabel(_axis(metric))
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
    if len(lines) > 1:
        handles, names = panes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=7)
    held = ", ".join(f"{key} {value}" for key, value in curve.where.items())
    left = f"; {len(lines) - len(shown)} more lines" if len(lines) > len(shown) else ""
    head = f"{curve.benchmark} ({held})" if held else curve.benchmark
    figure.suptitle(f"{head}\n{about}{left}", fontsize=9)
    return figure


def _plot(
    axes: Axes, curve: Curve, metric: str, line: Sequence[Point], name: str, number: int
) -> None:
    known = [point for point in line if metric in point.record.metrics]
    xs = [_shown(curve.x, point.x) for point in known]
    ys = [_shown(metric, point.record.metrics[metric]) for point in known]
    style = "-" if all(point.joined for point in known) else ""
    marker = MARKERS[number // 10 % len(MARKERS)]
    axes.plot(xs, ys, style, marker=marker, color=f"C{number % 10}", label=name, markersize=4)


def _logarithmic(axes: Axes, curve: Curve, lines: Mapping[str, Sequence[Point]]) -> None:
    """The values themselves at the ticks, where there are few: they are rarely powers of ten."""
    axes.set_xscale("log")
    values = sorted({_shown(curve.x, point.x) for line in lines.values() for point in line})
    if len(values) <= 8:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.xaxis.set_minor_locator(NullLocator())


def _unit(name: str) -> tuple[str, str, float]:
    """A metric's name without its unit, the unit that is shown, and the factor."""
    for ending, (unit, factor) in UNITS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), unit, factor
    return name, "", 1.0


def _axis(name: str) -> str:
    base, unit, _ = _unit(name)
    words = base.replace("_", " ")
    return f"{words} ({unit})" if unit else words


def _shown(name: str, value: float) -> float:
    return value * _unit(name)[2]


def write_picture(figure: Figure, path: Path) -> None:
    """As PNG, by rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=120, format="png")
    temporary.replace(path)
