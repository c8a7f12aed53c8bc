"""Where ΔW lies along the base's singular spectrum: profile, cumulative share, and runs overlaid."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from spectra.figures.data.profiles import cumulative_curve, profile_curve, widest_band
from spectra.figures.data.summaries import Side, only_vectors, resolve_step
from spectra.figures.style.style import (
    BASE,
    INK,
    MUTED,
    NULL_FILL,
    UPDATE,
    legend_above,
    legend_rows,
    new_axes,
    percent,
    run_style,
    say,
    short,
    styled,
)
from spectra.runs.tables import Tables

_SPACE = {"left": "output", "right": "input"}
_LOG_FROM = 8.0  # ratio of the largest to the smallest drawn value above which the axis is logarithmic
_FLOOR = 1e-4  # of chance: less energy than this is drawn at the lower edge


def profile(tables: Tables, *, side: Side, step: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw update energy along the base's singular index, in units of chance.

    Parameters
    ----------
    tables
        The tables of one run.
    side
        ``left`` or ``right`` singular vectors of the base.
    step
        An analyzed step; None is the last.
    ax
        Axes to draw into; None makes a new figure.

    Returns
    -------
    Axes
        Lines, in order: ΔW, base W, chance (1). The gray band is chance ± 2 standard deviations of the mean.

    Raises
    ------
    UsageError
        If the side is unknown or the step was not analyzed.
    """
    curve = profile_curve(tables, side, step)
    with styled():
        ax = ax or new_axes()
        _name_axes(ax, side, "share of energy ÷ chance")
        if curve.empty:
            return say(ax, _nothing(tables, step))
        x = curve["position"]
        if curve["matrices"].iloc[0] > 1:
            spread = "10–90 % of matrices"
            ax.fill_between(x, curve["low"], curve["high"], color=UPDATE.color, alpha=0.15, linewidth=0, label=spread)
        ax.plot(x, curve["update"], **UPDATE.line, marker=UPDATE.marker, label=_counted("ΔW", curve), zorder=3)
        ax.plot(x, curve["base"], **BASE.line, label="base W")
        _chance(ax, curve)
        _scale(ax, curve[["update", "base", "null_low", "null_high"]])
        legend_above(ax)
    return ax


def cumulative(tables: Tables, *, side: Side, step: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw the cumulative share of ‖ΔW‖² along the base's singular index against chance and the energy of the base.

    The curve is never renormalized: what it lacks to 1 at the right edge lies outside the base's singular vectors.

    Parameters
    ----------
    tables
        The tables of one run.
    side
        ``left`` or ``right`` singular vectors of the base.
    step
        An analyzed step; None is the last.
    ax
        Axes to draw into; None makes a new figure.

    Returns
    -------
    Axes
        Lines, in order: ΔW, base W, chance.

    Raises
    ------
    UsageError
        If the side is unknown or the step was not analyzed.
    """
    curve = cumulative_curve(tables, side, step)
    with styled():
        ax = ax or new_axes()
        _name_axes(ax, side, "cumulative share of energy")
        ax.set_ylim(0, 1.02)
        if curve.empty:
            return say(ax, _nothing(tables, step))
        x = curve["position"]
        ax.plot(x, curve["update"], **UPDATE.line, label=_counted("ΔW", curve), zorder=3)
        ax.plot(x, curve["base"], **BASE.line, label="base W")
        ax.plot(x, curve["expected"], color=MUTED, linestyle=":", linewidth=1, label="chance (Haar)")
        ax.fill_between(x, curve["null_low"], curve["null_high"], color=NULL_FILL, linewidth=0, label="chance ± 2 sd")
        _say_outside(ax, 1.0 - float(curve["update"].iloc[-1]), 1.0 - float(curve["expected"].iloc[-1]))
        legend_above(ax)
    return ax


def overlay(runs: Mapping[str, Tables], *, side: Side, ax: Axes | None = None) -> Axes:
    """Draw the profiles of several runs, each at its last step, over the widest of their chance bands.

    Parameters
    ----------
    runs
        Name of the run → its tables; the order sets the styles.
    side
        ``left`` or ``right`` singular vectors of the base.
    ax
        Axes to draw into; None makes a new figure.

    Returns
    -------
    Axes
        One line per run, in order, empty where its ΔW is 0; then chance (1).

    Raises
    ------
    UsageError
        If the side is unknown.
    """
    curves = {name: profile_curve(tables, side) for name, tables in runs.items()}
    with styled():
        ax = ax or new_axes(height=2.5 + 0.16 * legend_rows([*map(short, runs), "chance ± 2 sd"]))
        _name_axes(ax, side, "share of energy ÷ chance")
        drawn = {name: curve for name, curve in curves.items() if not curve.empty}
        if not drawn:
            return say(ax, "no run has an update: ΔW = 0 in every matrix, or only vectors train")
        for index, (name, curve) in enumerate(curves.items()):
            style, every = run_style(index), (index % 3, 3)
            why = " (only vectors)" if only_vectors(runs[name]) else " (ΔW = 0)"
            label = short(name) + (why if curve.empty else "")
            ax.plot(curve["position"], curve["update"], **style.line, marker=style.marker, markevery=every, label=label)
        band = widest_band(drawn)
        _chance(ax, band)
        _scale(ax, pd.concat([curve[["update"]] for curve in drawn.values()]).join(band[["null_low", "null_high"]]))
        legend_above(ax)
    return ax


def _name_axes(ax: Axes, side: Side, what: str) -> None:
    ax.set_xlabel(f"{side} singular vectors of W ({_SPACE[side]})\n0: largest σ, 1: smallest σ")
    ax.set_ylabel(what)
    ax.set_xlim(0, 1)


def _chance(ax: Axes, curve: pd.DataFrame) -> None:
    """Draw the null: a line at 1 and its band, which reaches both edges of the axis."""
    x = curve["position"].to_numpy().copy()
    x[0], x[-1] = 0.0, 1.0
    ax.axhline(1.0, color=MUTED, linestyle=":", linewidth=1)
    ax.fill_between(
        x, curve["null_low"], curve["null_high"], color=NULL_FILL, linewidth=0, zorder=0.5, label="chance ± 2 sd"
    )


def _scale(ax: Axes, values: pd.DataFrame) -> None:
    """Choose a linear axis around chance, or a logarithmic one where the values span decades."""
    numbers = values.to_numpy(dtype="float64")
    numbers = numbers[np.isfinite(numbers) & (numbers > 0)]
    low, high = max(float(numbers.min()), _FLOOR), float(numbers.max())
    if high / low <= _LOG_FROM:
        # Differences from chance of a few per cent must not look large: the axis always shows half of chance around it.
        ax.set_ylim(max(min(low - 0.1, 0.5), 0.0), max(high + 0.1, 1.5))
        return
    ax.set_yscale("log")
    ax.set_ylim(min(low, 0.7) / 1.3, max(high, 1.5) * 1.6)
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 50 else (1.0,)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _say_outside(ax: Axes, outside: float, expected: float) -> None:
    """Say how much of ΔW no singular vector of the base reaches, where there is such a part."""
    if max(outside, expected) > 0.005:
        words = f"outside W's span: {percent(outside)}\n(by chance: {percent(expected)})"
        ax.annotate(
            words, (1, 0), xycoords="axes fraction", xytext=(-3, 4), textcoords="offset points", ha="right", fontsize=7,
            color=INK,
        )  # fmt: skip


def _counted(name: str, curve: pd.DataFrame) -> str:
    count = int(curve["matrices"].iloc[0])
    return f"{name} (mean of {count})" if count > 1 else name


def _nothing(tables: Tables, step: int | None) -> str:
    return f"no direction at step {resolve_step(tables, step)}: ΔW = 0 in every matrix, or only vectors train"
