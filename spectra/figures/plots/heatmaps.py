"""One number per matrix as a heat map: layer × module type."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullFormatter

from spectra.figures.data.snapshots import DEEP, last_step
from spectra.figures.data.snapshots import cells as deep_cells
from spectra.figures.data.summaries import FRACTION, Side, analyzed_fraction, grid, resolve_step
from spectra.figures.style.style import FULL_WIDTH, figure_of, new_axes, percent, say, short, styled
from spectra.runs.tables import Tables

_LABELS = {
    "relative_fro": "‖ΔW‖ / ‖W‖ (Frobenius)",
    "relative_spectral": "‖ΔW‖ / ‖W‖ (spectral)",
    "delta_fro": "‖ΔW‖ (Frobenius)",
    "effective_rank": "effective rank of ΔW",
    "stable_rank": "stable rank of ΔW",
    "top1_energy": "share of ‖ΔW‖² in its largest singular value",
    "outside_left": "share of ‖ΔW‖² outside the base's column space",
    "outside_right": "share of ‖ΔW‖² outside the base's row space",
    "nss": "normalized spectral shift",
    "rho_sigma": "ρ_Σ",
    "kappa_spec": "κ_spec (isotropic update: 1)",
    "unchanged_bf16": "entries unchanged in bfloat16",
    "row_gini": "Gini of the row norms² of ΔW",
    "column_gini": "Gini of the column norms² of ΔW",
}
_ANNOTATED_ROWS = 9  # with more layers the color has to do
_VALUE_WIDTH = 0.25  # inches: a narrower cell cannot hold a value
_LOG_FROM = 30.0
_MOST = 0.01  # the diverging map ends here and at its inverse
_DIVERGING = "PuOr_r"
_LIFT_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_FINE_LIFT_TICKS = (0.3, 0.4, 0.5, 0.7, 1.0, 1.4, 2.0, 2.5, 3.0)


def heatmap(
    tables: Tables,
    *,
    metric: str = "relative_fro",
    side: Side = "left",
    fraction: float = FRACTION,
    step: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one number per matrix as a layer × module type heat map.

    Parameters
    ----------
    tables
        The tables of one run.
    metric
        A number column of ``modules``, ``drift`` or ``coordinates``, or ``principal_lift`` or ``minor_lift``: share of
        ‖ΔW‖² in the first or last singular directions of the base, in units of chance, on a diverging color map
        centered at 1.
    side, fraction
        For a lift: which singular vectors, and which part of them.
    step
        An analyzed step; None is the last one that has the metric.
    ax
        Axes to draw into; None makes a new figure.

    Returns
    -------
    Axes
        ``ax.images[0]`` holds the grid, layers downwards; hatched cells have no such matrix. Cells hold their
        value, or, where they are small, the sign of a lift away from chance.

    Raises
    ------
    UsageError
        If the metric or side is unknown, or the step was not analyzed.
    """
    step, cells = _cells(tables, metric, step, side, fraction)
    with styled():
        ax = ax or new_axes(FULL_WIDTH, height_for(cells))
        if cells.empty:
            ax.set_axis_off()
            return say(ax, f"{metric} is undefined at step {step}:\nΔW = 0, or no matrix has it")
        norm = _norm(cells, metric)
        colors = _DIVERGING if _is_relative(metric) else "cividis"
        values = cells.to_numpy(dtype="float64")
        image = ax.imshow(values, cmap=colors, norm=norm, aspect="auto", interpolation="nearest")
        _hatch_missing(ax, cells)
        _name_cells(ax, cells)
        if len(cells) <= _ANNOTATED_ROWS and _cell_width(ax, cells) > _VALUE_WIDTH:
            _write(ax, image, cells, _short)
        elif _is_relative(metric):
            # In gray both arms of a diverging map are dark: the sign tells them apart.
            _write(ax, image, cells, lambda value: _sign(float(norm(value))))
        color_bar(ax, image, _label(tables, metric, side, fraction))
    return ax


def _cells(tables: Tables, metric: str, step: int | None, side: Side, fraction: float) -> tuple[int, pd.DataFrame]:
    """Return the step that is drawn and its layer × module type grid, from the table that has the metric."""
    deep = next((name for name in DEEP if metric in tables[name].select_dtypes("number").columns), None)
    if deep is None or metric == "step":
        step = resolve_step(tables, step)
        return step, grid(tables, metric, step=step, side=side, fraction=fraction)
    step = resolve_step(tables, last_step(tables[deep]) if step is None else step)
    return step, deep_cells(tables, deep, metric, step)


def height_for(cells: pd.DataFrame) -> float:
    """Return the figure height in inches at which layers and module types of a grid stay readable."""
    longest = max((len(short(str(kind))) for kind in cells.columns), default=0)
    return 0.25 + 0.16 * min(max(len(cells), 10), 60) + 0.04 * longest


def _is_relative(metric: str) -> bool:
    """Return whether chance is 1, so that the colors run both ways from it."""
    return metric.endswith("_lift") or metric == "kappa_spec"


def _norm(cells: pd.DataFrame, metric: str) -> Normalize:
    values = cells.to_numpy(dtype="float64")
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if _is_relative(metric):
        # Half of chance and twice chance are equally far from it, and noise well inside them stays pale.
        reach = float(np.clip(max(high, 1.0 / max(low, _MOST)), 2.0, 1.0 / _MOST))
        return LogNorm(1.0 / reach, reach)
    if low > 0 and high / low > _LOG_FROM:
        return LogNorm(low, high)
    return Normalize(min(low, 0.0), high if high > low or high > 0 else low + 1.0)


def color_bar(ax: Axes, image: AxesImage, label: str) -> None:
    """Put a color bar beside the axes; a diverging logarithmic one has ticks around chance."""
    figure = figure_of(ax)
    tall = max(8.0, ax.get_window_extent().height / figure.dpi / 0.11)
    bar = figure.colorbar(image, ax=ax, label=label, pad=0.02, fraction=0.06, aspect=tall)
    low, high = image.get_clim()
    logarithmic = isinstance(image.norm, LogNorm)
    if logarithmic and image.get_cmap().name == _DIVERGING and high is not None and low is not None:
        ticks = _FINE_LIFT_TICKS if high < 3.1 else _LIFT_TICKS
        bar.set_ticks([tick for tick in ticks if low * 0.999 <= tick <= high * 1.001])
    if logarithmic:
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
        bar.ax.minorticks_off()
    bar.ax.grid(False)


def _hatch_missing(ax: Axes, cells: pd.DataFrame) -> None:
    for row, column in np.argwhere(cells.isna().to_numpy()).tolist():
        patch = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="#eeeeee", hatch="////", linewidth=0)
        ax.add_patch(patch)


def _name_cells(ax: Axes, cells: pd.DataFrame) -> None:
    names = ["other" if layer < 0 else str(layer) for layer in cells.index]
    every = -(-len(names) // 32)
    ticks = [i for i, name in enumerate(names) if name == "other" or int(name) % every == 0]
    ax.set_yticks(ticks, [names[i] for i in ticks])
    ax.set_xticks(
        range(cells.shape[1]), [short(kind) for kind in cells.columns], rotation=40, ha="right", rotation_mode="anchor"
    )
    ax.set_ylabel("layer")
    ax.tick_params(length=0)
    ax.grid(False)


def _write(ax: Axes, image: AxesImage, cells: pd.DataFrame, words: Callable[[float], str]) -> None:
    for (row, column), value in np.ndenumerate(cells.to_numpy(dtype="float64")):
        if np.isfinite(value):
            red, green, blue, _ = image.to_rgba(value)
            ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
            ax.text(column, row, words(value), ha="center", va="center", fontsize=6.5, color=ink)


def _cell_width(ax: Axes, cells: pd.DataFrame) -> float:
    """Return the width of a cell in inches, before the color bar takes its part."""
    return float(ax.get_window_extent().width) / figure_of(ax).dpi / cells.shape[1]


def _sign(place: float) -> str:
    """Return + or − for a color well away from chance, which is at 0.5."""
    return "" if abs(place - 0.5) < 0.1 else "+" if place > 0.5 else "−"


def _short(value: float) -> str:
    """Write a cell's value in at most six characters."""
    return f"{value:.1e}".replace("e-0", "e-") if 0 < abs(value) < 1e-3 else f"{value:.2g}"


def _label(tables: Tables, metric: str, side: Side, fraction: float) -> str:
    if not metric.endswith("_lift"):
        return _LABELS.get(metric, metric)
    which = "first" if metric.startswith("principal") else "last"
    return f"{side} share in\n{which} {percent(analyzed_fraction(tables, fraction), 0)} ÷ chance"
