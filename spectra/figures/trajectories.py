"""How the update and the training curves grow, on one step axis."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from spectra.errors import UsageError
from spectra.figures.style import (
    FULL_WIDTH,
    MUTED,
    NULL_FILL,
    SECOND,
    UPDATE,
    UPDATE_RIGHT,
    LineStyle,
    ShownAxes,
    legend_above,
    legend_rows,
    new_axes,
    new_figure,
    percent,
    run_style,
    say,
    short,
    styled,
)
from spectra.figures.summaries import (
    BAND,
    accuracy_columns,
    analysed_fraction,
    by_step,
    curve,
    lifts,
    smoothing_window,
)
from spectra.runs.tables import Tables

PANELS = 5


def trajectory(tables: Tables, *, axes: Sequence[Axes] | None = None) -> list[Axes]:
    """Draw size, rank and direction of the update, reward and entropy, one panel each, over training steps.

    Parameters
    ----------
    tables
        The tables of one run. A panel whose numbers are missing says so.
    axes
        Five axes to draw into, from top to bottom; None makes a new figure.

    Returns
    -------
    list[Axes]
        The five axes.

    Raises
    ------
    UsageError
        If ``axes`` are not five.
    """
    if axes is not None and len(axes) != PANELS:
        raise UsageError(f"needs {PANELS} axes, got {len(axes)}", where="trajectory")
    with styled():
        drawn = list(axes) if axes is not None else _stacked()
        _draw_size(drawn[0], tables)
        _draw_rank(drawn[1], tables)
        _draw_direction(drawn[2], tables)
        _draw_reward(drawn[3], tables)
        _draw_entropy(drawn[4], tables)
        for ax in drawn:
            legend_above(ax)
        drawn[-1].set_xlabel("training step")
        drawn[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        low, high = drawn[-1].get_xlim()
        if high - low < 1:  # a single step: matplotlib would zoom into fractions of it
            drawn[-1].set_xlim(round(low) - 1, round(high) + 1)
    return drawn


def learning_curves(runs: Mapping[str, Tables], *, ax: Axes | None = None) -> Axes:
    """Draw the mean reward of every run over training steps; the raw values lie pale behind a running mean.

    Parameters
    ----------
    runs
        Name of the run → its tables; the order sets the styles.
    ax
        Axes to draw into; None makes a new figure.

    Returns
    -------
    Axes
        One labelled line a run, in order; empty where the run logged no reward.
    """
    curves = {name: curve(tables, "reward") for name, tables in runs.items()}
    with styled():
        ax = ax or new_axes(height=2.5 + 0.16 * legend_rows([short(name) for name in runs]))
        ax.set_xlabel("training step")
        widths = {smoothing_window(len(points)) for points in curves.values()} - {1}
        ax.set_ylabel("reward" if not widths else f"reward (mean of {'/'.join(map(str, sorted(widths)))} steps)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        for index, (name, points) in enumerate(curves.items()):
            _draw_curve(ax, points, short(name) + ("" if len(points) else " (none logged)"), run_style(index))
        if all(points.empty for points in curves.values()):
            return say(ax, "no run logged a reward")
        legend_above(ax)
    return ax


def _stacked() -> list[Axes]:
    figure = new_figure(FULL_WIDTH, 7.2)
    axes: list[Axes] = []
    for row in range(PANELS):
        ax = figure.add_subplot(PANELS, 1, row + 1, axes_class=ShownAxes, sharex=axes[0] if axes else None)
        ax.tick_params(labelbottom=row == PANELS - 1)
        axes.append(ax)
    figure.align_ylabels(axes)
    return axes


def _draw_size(ax: Axes, tables: Tables) -> None:
    ax.set_ylabel("‖ΔW‖ / ‖W‖")
    _draw_spread(ax, by_step(tables, "relative_fro"), "median", UPDATE)
    _say_if_empty(ax, "no snapshot was analysed")
    if ax.lines:
        ax.set_ylim(bottom=0)


def _draw_rank(ax: Axes, tables: Tables) -> None:
    ax.set_ylabel("rank of ΔW")
    _draw_spread(ax, by_step(tables, "effective_rank"), "effective rank (median)", UPDATE)
    _draw_spread(ax, by_step(tables, "stable_rank"), "stable rank (median)", SECOND)
    _say_if_empty(ax, "no rank: ΔW = 0 in every snapshot, or only vectors train")
    if ax.lines:
        ax.set_ylim(bottom=0)


def _draw_direction(ax: Axes, tables: Tables) -> None:
    ax.set_ylabel(f"share in first\n{percent(analysed_fraction(tables), 0)} ÷ chance")
    means = lifts(tables, ["step"])
    means = means[means["subspace"] == "principal"]
    for side, style in (("left", UPDATE), ("right", UPDATE_RIGHT)):
        points = means[means["side"] == side]
        if not points.empty:
            ax.plot(points["step"], points["lift"], **style.line, marker=style.marker, label=side, zorder=3)
    if not ax.lines:
        say(ax, "no direction: ΔW = 0 in every snapshot, or only vectors train")
        return
    _draw_chance(ax, means[means["side"].isin(["left", "right"])])


def _draw_chance(ax: Axes, means: pd.DataFrame) -> None:
    """Draw chance at 1 and the wider side's band; one snapshot alone gets an error bar."""
    ax.axhline(1.0, color=MUTED, linestyle=":", linewidth=1)
    band = BAND * means.groupby("step")["sd"].max()
    if len(band) == 1:
        ax.errorbar(band.index, [1.0], yerr=band, color=MUTED, linestyle="none", capsize=3, label="chance ± 2 sd")
    else:
        ax.fill_between(
            band.index.to_numpy(), (1 - band).to_numpy(), (1 + band).to_numpy(), color=NULL_FILL, linewidth=0,
            zorder=0.5, label="chance ± 2 sd",
        )  # fmt: skip
    # Differences inside the band are noise: the axis never zooms in on them alone.
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.9), max(high, 1.1))


def _draw_reward(ax: Axes, tables: Tables) -> None:
    ax.set_ylabel("reward")
    styles = cycle([SECOND, UPDATE_RIGHT])
    reward = curve(tables, "reward")
    if not reward.empty:
        _draw_curve(ax, reward, "reward", UPDATE)
    for column in accuracy_columns(tables):
        points, style = curve(tables, column), next(styles)
        if not points.empty:
            ax.set_ylabel("reward, accuracy")
            name = column.replace("_", " ").replace("/", " ")
            ax.plot(points["step"], points["value"], **style.line, marker=style.marker, label=short(name), zorder=3)
    _say_if_empty(ax, "no reward was logged")


def _draw_entropy(ax: Axes, tables: Tables) -> None:
    ax.set_ylabel("entropy\n(nats / token)")
    entropy = curve(tables, "entropy")
    if entropy.empty:
        say(ax, "no entropy was logged")
        return
    _draw_curve(ax, entropy, "entropy", UPDATE)
    ax.set_ylim(bottom=0)


def _draw_spread(ax: Axes, summary: pd.DataFrame, label: str, style: LineStyle) -> None:
    if summary.empty:
        return
    x = summary["step"]
    several = bool((summary["modules"] > 1).any())
    if several and len(x) > 1:
        ax.fill_between(x, summary["low"], summary["high"], color=style.color, alpha=0.15, linewidth=0)
    elif several:
        ax.vlines(x, summary["low"], summary["high"], color=style.color, alpha=0.4)
    ax.plot(x, summary["median"], **style.line, marker=style.marker, label=label)


def _draw_curve(ax: Axes, points: pd.DataFrame, name: str, style: LineStyle) -> None:
    """Draw a training curve: raw where it is short, raw and pale behind its running mean where it is long."""
    window = smoothing_window(len(points))
    if window == 1:
        ax.plot(points["step"], points["value"], **style.line, marker=style.marker, markersize=2.5, label=name)
        return
    ax.plot(points["step"], points["value"], color=style.color, alpha=0.25, linewidth=0.6)
    ax.plot(points["step"], points["smooth"], **style.line, label=name)


def _say_if_empty(ax: Axes, words: str) -> None:
    if not ax.lines:
        say(ax, words)
