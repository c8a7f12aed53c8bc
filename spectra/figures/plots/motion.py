"""How the whole matrix W moved: spectral shift and rotation over steps, beside what a small isotropic update gives."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from spectra.figures.data.snapshots import drift_rows, spread
from spectra.figures.style.formats import number
from spectra.figures.style.panels import draw_spread, given, log_scale, say_if_empty, step_axis, tiled
from spectra.figures.style.style import MUTED, NULL_FILL, UPDATE, LineStyle, legend_above, run_style, styled
from spectra.runs.tables import Tables
from spectra.statistics.shares import isotropic_rhos

PANELS = 4
ANGLES = (1, 4, 16, 64)
_NOISE = "Gaussian noise"
_NEAR = 100.0  # a rounding error this many times below the curve would only stretch the axis


def drift(tables: Tables, *, axes: Sequence[Axes] | None = None) -> list[Axes]:
    """Draw NSS, ρ_Σ, κ_spec and the largest principal angles over the snapshots that have them.

    Parameters
    ----------
    tables
        The tables of one run.
    axes
        Four axes: NSS with its rounding error, ρ_Σ with 1/√max(O, I), κ_spec with 1, largest angle at k with that
        of Gaussian noise where it was sampled for every matrix; None makes a new figure.

    Returns
    -------
    list[Axes]
        The four axes. A panel without numbers says so.

    Raises
    ------
    UsageError
        If ``axes`` are not four.
    """
    given(axes, PANELS, "drift")
    rows = drift_rows(tables)
    with styled():
        drawn = list(axes) if axes is not None else tiled(2, 2, 4.1)
        _draw_shift(drawn[0], rows)
        _draw_rho(drawn[1], rows)
        _draw_kappa(drawn[2], rows)
        _draw_angles(drawn[3], rows, tables.nulls)
        for ax in drawn:
            say_if_empty(ax, "not computed, or ΔW = 0")
            step_axis(ax)
            if not ax.texts:
                legend_above(ax)
    return drawn


def _draw_shift(ax: Axes, rows: pd.DataFrame) -> None:
    ax.set_ylabel("NSS = ‖Δσ‖ / ‖σ(W)‖")
    moved = rows[rows["nss"] > 0]
    chance, error = moved["relative_fro"] * isotropic_rhos(moved), moved[moved["nss_error"] > 0]
    draw_spread(ax, spread(moved, moved["nss"]), "NSS (median)", UPDATE)
    _draw_line(ax, spread(moved, chance), "isotropic update")
    _draw_floor(ax, spread(error, error["nss_error"]))
    _fit(ax)


def _draw_floor(ax: Axes, floor: pd.DataFrame) -> None:
    """Draw the rounding error where it is near the curve; far below it, only say what it is."""
    if floor.empty or not ax.lines:
        return
    lowest = min(float(y) for y in ax.lines[0].get_ydata())  # type: ignore[arg-type, union-attr]
    near = floor[floor["median"] > lowest / _NEAR]
    label = "rounding error" if len(near) else f"rounding error {number(floor['median'].max())}, below"
    ax.plot(near["step"], near["median"], color=MUTED, linestyle="--", marker="_", label=label)


def _draw_rho(ax: Axes, rows: pd.DataFrame) -> None:
    ax.set_ylabel("ρ_Σ = ‖Δσ‖ / ‖ΔW‖")
    draw_spread(ax, spread(rows, rows["rho_sigma"]), "ρ_Σ (median)", UPDATE)
    known = rows.dropna(subset=["rho_sigma"])
    if known.empty:
        return
    chance = isotropic_rhos(known)
    label = "1/√max(O, I)"
    if chance.min() == chance.max():
        ax.axhline(chance.min(), color=MUTED, linestyle=":", linewidth=1, label=label)
    else:
        ax.axhspan(chance.min(), chance.max(), color=NULL_FILL, linewidth=0, zorder=0.5, label=label)
    _fit(ax)


def _draw_kappa(ax: Axes, rows: pd.DataFrame) -> None:
    ax.set_ylabel("κ_spec")
    draw_spread(ax, spread(rows, rows["kappa_spec"]), "κ_spec (median)", UPDATE)
    if ax.lines:
        ax.axhline(1.0, color=MUTED, linestyle=":", linewidth=1, label="isotropic update: 1")
        _fit(ax)


def _draw_angles(ax: Axes, rows: pd.DataFrame, nulls: pd.DataFrame) -> None:
    ax.set_ylabel("largest angle (degrees)")
    noise = nulls[nulls["null"] == "gaussian"]
    curves = {k: spread(rows[rows[column] > 0], rows[column]) for k in ANGLES for column in (f"angle_max_k{k}",)}
    styles = {k: run_style(index) for index, k in enumerate(ANGLES)}
    for k, points in curves.items():
        if not points.empty:
            ax.plot(points["step"], points["median"], **styles[k].line, marker=styles[k].marker, label=f"k = {k}")
    for k, points in curves.items():
        _draw_sampled(ax, points, noise[noise["metric"] == f"angle_max_k{k}"], styles[k])
    _fit(ax)


def _draw_sampled(ax: Axes, points: pd.DataFrame, noise: pd.DataFrame, style: LineStyle) -> None:
    """Draw open marks where noise was drawn for all matrices that the curve is the median of."""
    chance = spread(noise, noise["expected"]).merge(points[["step", "modules"]], on=["step", "modules"])
    if chance.empty:
        return
    named = any(line.get_label() == _NOISE for line in ax.lines)
    [mark] = ax.plot(chance["step"], chance["median"], linestyle="none", marker=style.marker, color=style.color)
    mark.set(markerfacecolor="none", label=f"_{_NOISE}" if named else _NOISE)


def _draw_line(ax: Axes, points: pd.DataFrame, label: str) -> None:
    """Draw a null that changes with the step."""
    if not points.empty:
        ax.plot(points["step"], points["median"], color=MUTED, linestyle=":", marker=".", linewidth=1, label=label)


def _fit(ax: Axes) -> None:
    """Choose a logarithmic axis over decades, and one from 0 otherwise."""
    values = [float(y) for line in ax.lines for y in line.get_ydata()]  # type: ignore[arg-type, union-attr]
    if values and not log_scale(ax, min(values), max(values)):
        ax.set_ylim(0, max(max(values), ax.get_ylim()[1]))
