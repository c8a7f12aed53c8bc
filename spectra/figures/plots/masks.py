"""Which entries of W moved visibly in bfloat16, beside noise of the same norm pushed through the same cast."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spectra.figures.data.snapshots import last_step, mask_rows
from spectra.figures.style.panels import given, say_if_empty, tiled
from spectra.figures.style.style import INK, MUTED, NULL_FILL, UPDATE, figure_of, short, styled
from spectra.runs.tables import Tables

TITLES = {
    "unchanged_bf16": "unchanged in bfloat16\n(share of entries)",
    "principal": "principal mask\n(overlap ÷ size)",
    "low_magnitude": "low-magnitude mask\n(overlap ÷ size)",
    "principal_not_low": "principal, not low\n(overlap ÷ size)",
}


def coordinates(tables: Tables, *, step: int | None = None, axes: Sequence[Axes] | None = None) -> list[Axes]:
    """Draw observed and expected visibility and mask enrichment by module type.

    Parameters
    ----------
    tables
        The tables of one run.
    step
        A step of ``coordinates``; None is the last.
    axes
        Four axes side by side, one per key of ``TITLES``; None makes a new figure.

    Returns
    -------
    list[Axes]
        In each, ``lines[0]`` are the observed means (filled) and ``lines[1]`` what noise gives (open), one per module
        type, upwards; the gray bars are noise ± 2 standard deviations.

    Raises
    ------
    UsageError
        If ``axes`` are not four.
    """
    given(axes, len(TITLES), "coordinates")
    at = last_step(tables.coordinates) if step is None else step
    rows = mask_rows(tables, -1 if at is None else at)
    kinds = list(dict.fromkeys(rows["kind"]))
    with styled():
        drawn = list(axes) if axes is not None else tiled(1, len(TITLES), 1.1 + 0.2 * max(len(kinds), 3), sharey=True)
        for ax, (panel, title) in zip(drawn, TITLES.items(), strict=True):
            ax.set_title(title, fontsize=7, fontweight="normal")
            _draw(ax, rows[rows["panel"] == panel], kinds)
            say_if_empty(ax, "not computed,\nor ΔW = 0")
        drawn[0].set_yticks(range(len(kinds)), [short(kind) for kind in kinds])
        drawn[0].invert_yaxis()
        if kinds and axes is None:
            _explain(drawn[0])
    return drawn


def _draw(ax: Axes, rows: pd.DataFrame, kinds: list[str]) -> None:
    if rows.empty:
        return
    y = [kinds.index(kind) for kind in rows["kind"]]
    ax.barh(y, rows["null_high"] - rows["null_low"], left=rows["null_low"], height=0.6, color=NULL_FILL, zorder=1)
    ax.hlines(y, rows["expected"], rows["value"], color=INK, linewidth=0.9, zorder=2)
    ax.plot(rows["value"], y, linestyle="none", marker=UPDATE.marker, color=UPDATE.color, markersize=4.5, zorder=4)
    ax.plot(
        rows["expected"],
        y,
        linestyle="none",
        marker="o",
        markerfacecolor="white",
        color=MUTED,
        markersize=4.5,
        zorder=3,
    )
    if rows["panel"].iloc[0] != "unchanged_bf16":
        # The mask's size is what masks are usually compared with, and no null.
        ax.axvline(1.0, color=MUTED, linestyle=":", linewidth=0.8, zorder=0.8)
    ax.set_ylim(-0.6, len(kinds) - 0.4)
    ax.use_sticky_edges = False
    ax.margins(x=0.15)
    ax.locator_params(axis="x", nbins=3)


def _explain(ax: Axes) -> None:
    """Put one legend above all panels."""
    handles = [
        Line2D([], [], linestyle="none", marker=UPDATE.marker, color=UPDATE.color, markersize=4.5, label="ΔW"),
        Line2D([], [], linestyle="none", marker="o", markerfacecolor="white", color=MUTED, markersize=4.5,
               label="noise of the same norm, same cast"),
        Patch(color=NULL_FILL, label="noise ± 2 sd"),
        Line2D([], [], color=MUTED, linestyle=":", linewidth=0.8, label="size of the mask"),
    ]  # fmt: skip
    figure_of(ax).legend(handles=handles, loc="outside upper left", ncols=4, fontsize=7)
