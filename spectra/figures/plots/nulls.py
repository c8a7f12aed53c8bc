"""A metric against every family of nulls: the value as a line, each null's 95 % as a bar, z beside it."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from spectra.errors import UsageError
from spectra.figures.data.snapshots import last_step, null_rows
from spectra.figures.style.formats import number, words
from spectra.figures.style.style import INK, MUTED, NULL_FILL, UPDATE, new_axes, say, short, styled
from spectra.linalg.nulls.haar_moments import NORMAL_95
from spectra.runs.tables import Tables

FAMILIES = {
    "gaussian": "Gaussian noise",
    "low_rank": "random rank-R",
    "spectrum_matched": "own σ, turned",
    "sign_flipped": "signs flipped",
    "permuted": "entries permuted",
    "adam_like": "±c (Adam-like)",
}
# What a page shows: one or two of each kind of metric, since most of the others move with these.
_CHOSEN = (
    "stable_rank", "effective_rank", "top1_energy", "unchanged_bf16", "overlap_principal", "overlap_low_magnitude",
    "row_gini", "column_gini", "rho_sigma", "intruders", "angle_max_k4", "angle_max_k16",
)  # fmt: skip
_LOG_FROM = 5.0


def null_metrics(tables: Tables, step: int | None = None) -> list[str]:
    """Return the metrics that were compared with sampled nulls at a step (None: the last), in the table's order."""
    at = last_step(tables.nulls) if step is None else step
    return [] if at is None else list(dict.fromkeys(null_rows(tables, at)["metric"]))


def chosen_metrics(tables: Tables) -> list[str]:
    """Return the metrics that a page shows, of those at the last step; all where none of them is there."""
    known = null_metrics(tables)
    return [metric for metric in _CHOSEN if metric in known] or known


def forest(tables: Tables, *, metric: str, step: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw one metric of ΔW, as the mean over matrices, beside the 95 % of each family of nulls.

    Parameters
    ----------
    tables
        The tables of one run.
    metric
        A metric of the ``nulls`` table.
    step
        A step of ``nulls``; None is the last.
    ax
        Axes to draw into; None makes a new figure.

    Returns
    -------
    Axes
        The vertical line is the value; bars are the nulls' 95 %, ticks their means, one family per row. ``ax.texts``
        holds the z, bold where the null does not explain the value.

    Raises
    ------
    UsageError
        If that metric was not compared.
    """
    known = null_metrics(tables, step)
    if known and metric not in known:
        raise UsageError(f"{metric!r} has no sampled null", where="metric", hint=f"choose one of: {', '.join(known)}")
    at = last_step(tables.nulls) if step is None else step
    with styled():
        ax = ax or new_axes(2.7, 1.5)
        ax.set_title(words(metric), fontsize=7.5)
        if not known or at is None:
            return say(ax, "no null was sampled")
        _draw(ax, null_rows(tables, at).query("metric == @metric"))
    return ax


def _draw(ax: Axes, rows: pd.DataFrame) -> None:
    y = np.arange(len(rows))
    width = np.maximum(rows["hi"] - rows["lo"], 0.0)
    ax.barh(y, width, left=rows["lo"], height=0.55, color=NULL_FILL, zorder=1)
    ax.plot(rows["expected"], y, linestyle="none", marker="|", color=MUTED, markersize=6, zorder=2)
    ax.axvline(rows["value"].iloc[0], color=UPDATE.color, linewidth=1.5, zorder=3)
    ax.set_yticks(y, [FAMILIES.get(name, short(words(name), 18)) for name in rows["null"]], fontsize=6.5)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    _scale(ax, rows)
    ax.text(1.02, 1.0, " z", transform=ax.transAxes, fontsize=6.5, color=MUTED, va="bottom", gid="z-title")
    for place, z in zip(y.tolist(), rows["z"], strict=True):
        beyond = abs(z) > NORMAL_95
        ax.text(
            1.02, place, _z(z), transform=ax.get_yaxis_transform(), fontsize=6.5, va="center",
            color=INK if beyond else MUTED, fontweight="bold" if beyond else "normal",
        )  # fmt: skip


def _scale(ax: Axes, rows: pd.DataFrame) -> None:
    """Show every value with a margin; over decades on a logarithmic axis."""
    values = rows[["value", "lo", "hi", "expected"]].to_numpy(dtype="float64").ravel()
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > _LOG_FROM:
        ax.set_xscale("log")
        ax.set_xlim(low / 1.4, high * 1.4)
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 30 else (1.0,), numticks=5))
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        ax.set_xlim(low - margin, high + margin)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=3))
    left, right = ax.get_xlim()
    digits = max(2, 2 - math.floor(math.log10((right - left) / max(abs(left), abs(right)))))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.{digits}g}".replace("-", "−")))


def _z(z: float) -> str:
    """Write a z with its sign, in as few characters as it needs."""
    if not np.isfinite(z):
        return number(None)
    return f"{z:+.1f}".replace("-", "−") if abs(z) < 10 else f"{z:+.0f}".replace("-", "−")
