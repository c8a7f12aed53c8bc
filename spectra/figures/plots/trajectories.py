"""How the update and the training curves grow, on one step axis."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes

from spectra.figures.data.snapshots import interval, rounding_floor
from spectra.figures.data.summaries import (
    BAND,
    accuracy_columns,
    analyzed_fraction,
    by_step,
    curve,
    lifts,
    smoothing_window,
)
from spectra.figures.style.panels import draw_curve, draw_spread, given, say_if_empty, stacked, step_axis
from spectra.figures.style.style import (
    MUTED,
    NULL_FILL,
    SECOND,
    UPDATE,
    UPDATE_RIGHT,
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
    given(axes, PANELS, "trajectory")
    with styled():
        drawn = list(axes) if axes is not None else stacked(PANELS, 7.2)
        _draw_size(drawn[0], tables)
        _draw_rank(drawn[1], tables)
        _draw_direction(drawn[2], tables)
        _draw_reward(drawn[3], tables)
        _draw_entropy(drawn[4], tables)
        for ax in drawn:
            legend_above(ax)
        step_axis(drawn[-1])
    return drawn


def learning_curves(runs: Mapping[str, Tables], *, ax: Axes | None = None) -> Axes:
    """Draw the mean reward of every run over training steps; raw values in pale color behind a running mean.

    Parameters
    ----------
    runs
        Name of the run → its tables; the order sets the styles.
    ax
        Axes to draw into; None makes a new figure.

    Returns
    -------
    Axes
        One labeled line per run, in order; empty where the run logged no reward.
    """
    curves = {name: curve(tables, "reward") for name, tables in runs.items()}
    with styled():
        ax = ax or new_axes(height=2.5 + 0.16 * legend_rows([short(name) for name in runs]))
        widths = {smoothing_window(len(points)) for points in curves.values()} - {1}
        ax.set_ylabel("reward" if not widths else f"reward (mean of {'/'.join(map(str, sorted(widths)))} steps)")
        step_axis(ax)
        for index, (name, points) in enumerate(curves.items()):
            draw_curve(ax, points, short(name) + ("" if len(points) else " (none logged)"), run_style(index))
        if all(points.empty for points in curves.values()):
            return say(ax, "no run logged a reward")
        legend_above(ax)
    return ax


def _draw_size(ax: Axes, tables: Tables) -> None:
    ax.set_ylabel("‖ΔW‖ / ‖W‖")
    draw_spread(ax, by_step(tables, "relative_fro"), "median", UPDATE)
    floor = rounding_floor(tables)
    if not floor.empty:
        label = "rounding floor"
        ax.plot(floor["step"], floor["floor"], color=MUTED, linestyle="--", linewidth=1, marker="_", label=label)
    say_if_empty(ax, "no snapshot was analyzed")
    if ax.lines:
        ax.set_ylim(bottom=0)


def _draw_rank(ax: Axes, tables: Tables) -> None:
    ax.set_ylabel("rank of ΔW")
    draw_spread(ax, by_step(tables, "effective_rank"), "effective rank (median)", UPDATE)
    draw_spread(ax, by_step(tables, "stable_rank"), "stable rank (median)", SECOND)
    say_if_empty(ax, "no rank: ΔW = 0 in every snapshot, or only vectors train")
    if ax.lines:
        ax.set_ylim(bottom=0)


def _draw_direction(ax: Axes, tables: Tables) -> None:
    ax.set_ylabel(f"share in first\n{percent(analyzed_fraction(tables), 0)} ÷ chance")
    means = lifts(tables, ["step"])
    means = means[means["subspace"] == "principal"]
    for side, style in (("left", UPDATE), ("right", UPDATE_RIGHT)):
        points = means[means["side"] == side]
        if not points.empty:
            ax.plot(points["step"], points["lift"], **style.line, marker=style.marker, label=side, zorder=3)
            around = interval(tables, f"{side}_principal_lift")
            around = around[around["step"].isin(points["step"])]
            ax.vlines(around["step"], around["lo"], around["hi"], color=style.color, linewidth=1, zorder=2.5)
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
        draw_curve(ax, reward, "reward", UPDATE)
    for column in accuracy_columns(tables):
        points, style = curve(tables, column), next(styles)
        if not points.empty:
            ax.set_ylabel("reward, accuracy")
            name = column.replace("_", " ").replace("/", " ")
            ax.plot(points["step"], points["value"], **style.line, marker=style.marker, label=short(name), zorder=3)
    say_if_empty(ax, "no reward was logged")


def _draw_entropy(ax: Axes, tables: Tables) -> None:
    ax.set_ylabel("entropy\n(nats / token)")
    entropy = curve(tables, "entropy")
    if entropy.empty:
        say(ax, "no entropy was logged")
        return
    draw_curve(ax, entropy, "entropy", UPDATE)
    ax.set_ylim(bottom=0)
