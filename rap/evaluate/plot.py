"""One picture of an evaluation: the camera path from above with the errors, and their curves."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from rap.evaluate.errors import PoseErrors
from rap.log import replacing


def trajectory_picture(
    path: Path,
    title: str,
    predicted: Float64[Tensor, "n 4 4"],
    true: Float64[Tensor, "n 4 4"],
    errors: PoseErrors,
) -> None:
    """Write a PNG: true and predicted centres joined by their errors, cumulative error curves.

    Seen along the axis of the world in which the cameras move least. Failed frames are left out of
    the map, and keep the curves from reaching 1.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title)
    left, *curves = figure.subplots(1, 3, width_ratios=[1.6, 1, 1])
    _map(figure, left, predicted, true, errors.translation_m)
    _curve(curves[0], errors.translation_m * 100, "translation error [cm]")
    _curve(curves[1], errors.rotation_deg, "rotation error [deg]")
    with replacing(path) as temporary:
        canvas.print_figure(temporary, format="png", dpi=110)


def _map(
    figure: Any,  # noqa: ANN401 (matplotlib is imported only when something is plotted)
    axes: Any,  # noqa: ANN401
    predicted: Float64[Tensor, "n 4 4"],
    true: Float64[Tensor, "n 4 4"],
    error_m: Float64[Tensor, "n"],
) -> None:
    from matplotlib.collections import LineCollection

    extent = true[:, :3, 3].amax(0) - true[:, :3, 3].amin(0)
    across, up = sorted(extent.argsort(descending=True)[:2].tolist())
    truth = true[:, [across, up], 3]
    found = torch.isfinite(error_m)
    estimate = predicted[found][:, [across, up], 3]
    segments = torch.stack([truth[found], estimate], dim=1).numpy()
    lines = LineCollection(list(segments), array=100 * error_m[found].numpy(), cmap="viridis")
    axes.add_collection(lines)
    axes.scatter(*truth.T.numpy(), s=14, color="black", zorder=3, label="true")
    axes.scatter(*estimate.T.numpy(), s=8, color="tab:orange", zorder=3, label="predicted")
    figure.colorbar(lines, ax=axes, label="translation error [cm]")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(f"{'xyz'[across]} [m]")
    axes.set_ylabel(f"{'xyz'[up]} [m]")
    axes.legend()


def _curve(axes: Any, values: Float64[Tensor, "n"], label: str) -> None:  # noqa: ANN401
    """Share of all frames with an error of at most x."""
    reached = values[torch.isfinite(values)].sort().values
    share = torch.arange(1, len(reached) + 1, dtype=torch.float64) / len(values)
    axes.step(reached.numpy(), share.numpy(), where="post")
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel(label)
    axes.set_ylabel("share of frames")
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
