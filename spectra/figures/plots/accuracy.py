"""Accuracy of each method against its share of trainable parameters."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from spectra.figures.style.labels import label_points
from spectra.figures.style.style import MUTED, figure_of, legend_above, new_axes, percent, run_style, say, short, styled

_NUMBERS = ("trainable_share", "accuracy_start", "accuracy_end", "accuracy_low", "accuracy_high")


def accuracy_against_size(comparison: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw final accuracy with its 95 % interval against the share of parameters that train.

    Parameters
    ----------
    comparison
        One row per run, with columns run, trainable_share, accuracy_start, accuracy_end, accuracy_low, accuracy_high;
        the order sets the styles. Rows without a share or a final accuracy are named below the axis.
    ax
        Axes to draw into; None makes a new figure.

    Returns
    -------
    Axes
        One marker line per run, in order, then the accuracy before training (dashed) where it is known.
    """
    table = comparison.reset_index(drop=True).astype(dict.fromkeys(_NUMBERS, "float64"))
    known = table["trainable_share"].gt(0) & table["accuracy_end"].notna()
    with styled():
        ax = ax or new_axes(height=3.2)
        ax.set_xlabel(_x_label(table[~known]))
        ax.set_ylabel("accuracy after training")
        rows = table[known]
        if rows.empty:
            return say(ax, "no run was evaluated")
        _draw_points(ax, rows)
        start = table["accuracy_start"].mean()
        if np.isfinite(start):
            ax.axhline(start, color=MUTED, linestyle="--", linewidth=1, label=f"before training: {percent(start)}")
        _scale(ax, rows, start)
        legend_above(ax)
        names = [short(str(name)) for name in rows["run"]]
        taken = _interval_boxes(ax, rows, start)
        label_points(ax, rows["trainable_share"].tolist(), rows["accuracy_end"].tolist(), names, taken=taken)
    return ax


def _draw_points(ax: Axes, rows: pd.DataFrame) -> None:
    for position, row in zip(rows.index, rows.to_dict("records"), strict=True):
        style = run_style(int(position))
        low, high = _interval(row)
        ax.vlines(row["trainable_share"], low, high, color=style.color, linewidth=1)
        ax.plot([row["trainable_share"]], [row["accuracy_end"]], color=style.color, marker=style.marker, markersize=4.5)


def _interval(row: Mapping[Hashable, Any]) -> tuple[float, float]:
    """Return the interval of a row; the point itself where there is none."""
    ends = (row["accuracy_low"], row["accuracy_high"])
    return ends if all(np.isfinite(ends)) else (row["accuracy_end"], row["accuracy_end"])


def _scale(ax: Axes, rows: pd.DataFrame, start: float) -> None:
    shares = rows["trainable_share"]
    ends = np.array([_interval(row) for row in rows.to_dict("records")], dtype="float64").ravel()
    ends = np.append(ends, start)[np.isfinite(np.append(ends, start))]
    margin = max(0.15 * float(np.ptp(ends)), 0.01)
    ax.set_ylim(float(ends.min()) - margin, float(ends.max()) + margin)
    ax.set_xscale("log")
    # Room at both sides: a label stands beside its mark.
    ax.set_xlim(float(shares.min()) / 4, min(float(shares.max()) * 4, 2.5))
    ax.xaxis.set_major_locator(LogLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %" if value <= 1 else ""))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _interval_boxes(ax: Axes, rows: pd.DataFrame, start: float) -> list[Bbox]:
    """Return what labels must not cover, in pixels: the intervals and the line of the start."""
    figure_of(ax).draw_without_rendering()
    boxes = []
    for row in rows.to_dict("records"):
        low, high = _interval(row)
        (x, bottom), (_, top) = ax.transData.transform([(row["trainable_share"], low), (row["trainable_share"], high)])
        boxes.append(Bbox.from_extents(x - 2, bottom, x + 2, top))
    if np.isfinite(start):
        frame = ax.get_window_extent()
        _, y = ax.transData.transform((1e-3, start))
        boxes.append(Bbox.from_extents(frame.x0, y - 1, frame.x1, y + 1))
    return boxes


def _x_label(left_out: pd.DataFrame) -> str:
    label = "share of parameters that train"
    names = ", ".join(short(str(name)) for name in left_out["run"])
    return f"{label}\n(not evaluated: {names})" if names else label
