"""What figures of several panels share: stacks and grids of axes, curves with their spread, the step axis."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from spectra.errors import UsageError
from spectra.figures.data.summaries import smoothing_window
from spectra.figures.style.style import FULL_WIDTH, LineStyle, ShownAxes, new_figure, say

_DECADE = 10.0


def stacked(count: int, height: float) -> list[Axes]:
    """Return ``count`` new axes, one above the other, on one x axis. Height in inches; call inside ``styled()``."""
    figure = new_figure(FULL_WIDTH, height)
    axes: list[Axes] = []
    for row in range(count):
        ax = figure.add_subplot(count, 1, row + 1, axes_class=ShownAxes, sharex=axes[0] if axes else None)
        ax.tick_params(labelbottom=row == count - 1)
        axes.append(ax)
    figure.align_ylabels(axes)
    return axes


def tiled(rows: int, columns: int, height: float, *, sharey: bool = False) -> list[Axes]:
    """Return new axes in a grid, row by row. Height in inches; call inside ``styled()``."""
    figure = new_figure(FULL_WIDTH, height)
    axes: list[Axes] = []
    for place in range(rows * columns):
        first = axes[place - place % columns] if sharey and place % columns else None
        ax = figure.add_subplot(rows, columns, place + 1, axes_class=ShownAxes, sharey=first)
        if first is not None:
            ax.tick_params(labelleft=False)
        axes.append(ax)
    return axes


def given(axes: Sequence[Axes] | None, count: int, where: str) -> None:
    """Raise unless ``axes`` are None or as many as the figure has panels.

    Raises
    ------
    UsageError
        If they are not.
    """
    if axes is not None and len(axes) != count:
        raise UsageError(f"needs {count} axes, got {len(axes)}", where=where)


def step_axis(ax: Axes) -> None:
    """Name the step axis and give it whole steps."""
    ax.set_xlabel("training step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ends = [end for panel in ax.get_shared_x_axes().get_siblings(ax) for end in panel.dataLim.intervalx]
    known = [end for end in ends if np.isfinite(end)]
    if known and min(known) == max(known):  # matplotlib would show steps around a single one that were not trained
        ax.set_xlim(min(known) - 1, min(known) + 1)


def draw_spread(ax: Axes, summary: pd.DataFrame, label: str, style: LineStyle) -> None:
    """Draw the median over matrices by step, and their 10–90 % as a band; a bar where there is one step."""
    if summary.empty:
        return
    x = summary["step"]
    several = bool((summary["modules"] > 1).any())
    if several and len(x) > 1:
        ax.fill_between(x, summary["low"], summary["high"], color=style.color, alpha=0.15, linewidth=0)
    elif several:
        ax.vlines(x, summary["low"], summary["high"], color=style.color, alpha=0.4)
    ax.plot(x, summary["median"], **style.line, marker=style.marker, label=label)


def draw_curve(ax: Axes, points: pd.DataFrame, name: str, style: LineStyle) -> None:
    """Draw a training curve: raw where it is short, raw and pale behind its running mean where it is long."""
    window = smoothing_window(len(points))
    if window == 1:
        ax.plot(points["step"], points["value"], **style.line, marker=style.marker, markersize=2.5, label=name)
        return
    ax.plot(points["step"], points["value"], color=style.color, alpha=0.25, linewidth=0.6)
    ax.plot(points["step"], points["smooth"], **style.line, label=name)


def say_if_empty(ax: Axes, words: str) -> None:
    """Write ``words`` into a panel in which nothing was drawn."""
    if not ax.lines:
        say(ax, words)


def log_scale(ax: Axes, low: float, high: float) -> bool:
    """Give y a logarithmic scale where positive values span more than a decade, and return whether it did."""
    if not 0 < low < high / _DECADE:
        return False
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low < 100 else (1.0,), numticks=6))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    return True
