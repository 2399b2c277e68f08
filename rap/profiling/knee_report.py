"""A curve over the batch size for people: a table, a picture, all numbers as JSON."""

import dataclasses
import json
from pathlib import Path

from rap import log
from rap.profiling.knee import ENOUGH, Curve, Point, knee
from rap.profiling.report import write_text

_MIB = 2**20
_COLUMNS = ("batch size", "step", "samples/s", "of the best", "images/s", "peak memory")


def show(curve: Curve) -> None:
    """The table and the knee on the terminal."""
    log.table(curve.what, _COLUMNS, _rows(curve))
    log.info(verdict_of(curve))


def verdict_of(curve: Curve) -> str:
    """The knee, by which rule, and why the curve ended."""
    found, best = knee(curve.points), max(curve.points, key=lambda point: point.samples_per_s)
    lines = [
        f"knee: batch size {found.batch_size}, the smallest within {1 - ENOUGH:.0%} of the best: "
        f"{found.samples_per_s:,.1f} samples/s and {_mib(found)}, at best {best.samples_per_s:,.1f}"
        f" and {_mib(best)} at {best.batch_size}"
    ]
    if found == curve.points[-1] and len(curve.points) > 1:
        lines.append("the rate still rises at the largest size: the knee may lie beyond it")
    if curve.device == "cpu":
        lines.append("memory is what a step takes beyond weights and photographs")
    if curve.stopped:
        lines.append(f"stopped there: {curve.stopped}")
    unsettled = [str(point.batch_size) for point in curve.points if not point.settled]
    if unsettled:
        lines.append(f"step times had not settled for batch size {', '.join(unsettled)}")
    return "\n".join(lines)


def write(curve: Curve, folder: Path) -> None:
    """`knee.txt`, `knee.json` and `knee.png`."""
    points = [dataclasses.asdict(point) | {"samples_per_s": point.samples_per_s}
              for point in curve.points]  # fmt: skip
    content = {
        "what": curve.what, "device": curve.device, "points": points, "stopped": curve.stopped,
        "knee": knee(curve.points).batch_size, "share": ENOUGH,
    }  # fmt: skip
    write_text(folder / "knee.json", json.dumps(content, indent=1) + "\n")
    rows = [_COLUMNS, *_rows(curve)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    table = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
             for row in rows]  # fmt: skip
    text = "\n".join([curve.what, "", *table, "", verdict_of(curve)])
    write_text(folder / "knee.txt", f"{text}\n")
    _picture(curve, folder / "knee.png")


def _rows(curve: Curve) -> list[tuple[str, ...]]:
    best = max(point.samples_per_s for point in curve.points)
    return [
        (
            str(point.batch_size), f"{point.step_ms:,.2f} ms", f"{point.samples_per_s:,.1f}",
            f"{point.samples_per_s / best:.0%}", f"{1e3 * point.images / point.step_ms:,.1f}",
            _mib(point),
        )
        for point in curve.points
    ]  # fmt: skip


def _mib(point: Point) -> str:
    return f"{point.peak_bytes / _MIB:,.0f} MiB"


def _picture(curve: Curve, path: Path) -> None:
    """Samples per second, and peak memory, over the batch size; the knee is marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(curve.what, fontsize=10, wrap=True)
    found, best = knee(curve.points), max(point.samples_per_s for point in curve.points)
    sizes = [point.batch_size for point in curve.points]
    left, right = figure.subplots(1, 2)
    left.plot(sizes, [point.samples_per_s for point in curve.points], "o-", markersize=4)
    left.axhline(ENOUGH * best, color="grey", linestyle=":", linewidth=1)
    right.plot(sizes, [point.peak_bytes / _MIB for point in curve.points], "o-", markersize=4)
    marked = ((left, found.samples_per_s, "samples per second"),
              (right, found.peak_bytes / _MIB, "peak memory (MiB)"))  # fmt: skip
    for axes, height, label in marked:
        axes.plot([found.batch_size], [height], "o", color="tab:orange", markersize=9, zorder=1)
        axes.annotate(f"knee: {found.batch_size}", (found.batch_size, height), xytext=(6, -14),
                      textcoords="offset points", fontsize=8)  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("batch size (photographs)")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
    with log.replacing(path) as temporary:
        canvas.print_figure(temporary, format="png", dpi=110)
