"""How the snapshots of one run relate: cosine to the final update, linearity, overlap with the initialization."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from spectra.figures.data.snapshots import spread
from spectra.figures.style.panels import draw_spread, given, say_if_empty, step_axis, tiled
from spectra.figures.style.style import MUTED, SECOND, UPDATE, UPDATE_RIGHT, LineStyle, legend_above, styled
from spectra.linalg.nulls.haar_moments import walk_cosine
from spectra.runs.tables import Tables

PANELS = 4
_NULL: dict[str, Any] = {"linestyle": ":", "linewidth": 1, "marker": "."}


def convergence(tables: Tables, *, axes: Sequence[Axes] | None = None) -> list[Axes]:
    """Draw cosine and subspaces against the last snapshot, linearity, and overlap with the initialization.

    Parameters
    ----------
    tables
        The tables of one run.
    axes
        Four axes: cosine to the final update, subspace overlap with it, linearity, overlap with the initialization;
        None makes a new figure.

    Returns
    -------
    list[Axes]
        The four axes, medians over matrices; dotted lines are the nulls. A panel without numbers says so.

    Raises
    ------
    UsageError
        If ``axes`` are not four.
    """
    given(axes, PANELS, "convergence")
    rows = tables.trajectory
    with styled():
        drawn = list(axes) if axes is not None else tiled(2, 2, 4.1)
        _draw_cosine(drawn[0], rows)
        _draw_sides(drawn[1], rows, "subspace_final_{}", "expected_subspace_{}", "overlap with final subspace")
        _draw_linearity(drawn[2], rows)
        _draw_sides(drawn[3], rows, "{}_at_start", "expected_{}_at_start", "overlap with the initialization")
        for ax in drawn:
            say_if_empty(ax, "one snapshot, or ΔW = 0")
            step_axis(ax)
            if not ax.texts:
                ax.set_ylim(min(0.0, ax.get_ylim()[0]), 1.04)
                legend_above(ax)
    return drawn


def _draw_cosine(ax: Axes, rows: pd.DataFrame) -> None:
    ax.set_ylabel("cosine to the final update")
    whole = spread(rows, rows["cos_final"])
    draw_spread(ax, whole, "ΔW", UPDATE)
    draw_spread(ax, spread(rows, rows["rank1_cos_final"]), "first direction", SECOND)
    if len(whole) > 1:
        steps = whole["step"].tolist()
        ax.plot(steps, [walk_cosine(step, steps[-1]) for step in steps], color=MUTED, **_NULL, label="random walk")


def _draw_linearity(ax: Axes, rows: pd.DataFrame) -> None:
    ax.set_ylabel("R² of a straight path")
    draw_spread(ax, spread(rows, rows["linearity"]), "ΔW", UPDATE)
    _draw_null(ax, spread(rows, rows["expected_linearity"]), "random walk", MUTED)


def _draw_sides(ax: Axes, rows: pd.DataFrame, column: str, expected: str, label: str) -> None:
    """Draw a column of either side, each with its own null in its own color."""
    ax.set_ylabel(label)
    drawn: list[tuple[str, LineStyle]] = []
    for side, style in (("left", UPDATE), ("right", UPDATE_RIGHT)):
        points = spread(rows, rows[column.format(side)])
        if not points.empty:
            draw_spread(ax, points, side, style)
            drawn.append((side, style))
    for number, (side, style) in enumerate(drawn):
        name = "_chance" if number else "chance"  # one entry of the legend for both sides
        _draw_null(ax, spread(rows, rows[expected.format(side)]), name, style.color)


def _draw_null(ax: Axes, points: pd.DataFrame, label: str, color: str) -> None:
    if not points.empty and ax.lines:
        ax.plot(points["step"], points["median"], color=color, **_NULL, label=label)
