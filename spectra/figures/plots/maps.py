"""Where ΔW lies on both sides of the base's spectrum at once: |UᵀΔWV|² in bins, relative to chance."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from numpy.typing import NDArray

from spectra.figures.data.snapshots import last_step, map_grid
from spectra.figures.plots.heatmaps import color_bar
from spectra.figures.style.style import new_axes, say, styled
from spectra.runs.tables import Tables

_MOST_REACH = 100.0
_SIGNED = 0.15  # of the color map, from its middle
_DARK = 0.3
_LEAST_REACH = 2.0  # the colors reach at least to half of chance and twice chance: noise stays pale


def map_steps(tables: Tables) -> list[int]:
    """Return the steps at which some matrix has a map."""
    return sorted({int(step) for step in tables.map.dropna(subset=["share"])["step"]})


def spectral_map(
    tables: Tables, *, step: int | None = None, reach: float | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the mean share of ‖ΔW‖² in blocks of left × right singular directions of W, in units of chance.

    Parameters
    ----------
    tables
        The tables of one run.
    step
        A step of ``map``; None is the last.
    reach
        Largest lift of the color map, its inverse being the smallest; None takes what the step needs. One number
        makes several steps comparable.
    ax
        Axes to draw into; None makes a new figure.

    Returns
    -------
    Axes
        ``ax.images[0]`` holds the grid, left bins downwards, right bins to the right; white is chance. In gray both
        arms of the color map are dark: blocks well away from chance bear a + or a −.
    """
    at = last_step(tables.map) if step is None else step
    cells, matrices = map_grid(tables, -1 if at is None else at)
    with styled():
        ax = ax or new_axes(3.6, 3.0)
        if cells.empty:
            ax.set_axis_off()
            return say(ax, "no map: ΔW = 0, or only vectors train")
        most = map_reach(tables, at) if reach is None else reach
        norm = LogNorm(1 / most, most, clip=True)
        values = np.maximum(cells.to_numpy(dtype="float64"), 1 / most)
        image = ax.imshow(values, cmap="PuOr_r", norm=norm, extent=(0, 1, 1, 0), interpolation="nearest", aspect="auto")
        _sign(ax, np.asarray(norm(values)) - 0.5)
        ax.set_xlabel("right singular vectors of W (input)\n0: largest σ, 1: smallest σ")
        ax.set_ylabel("left singular vectors of W (output)")
        ax.set_xticks([0, 0.5, 1])
        ax.set_yticks([0, 0.5, 1])
        ax.grid(False)
        color_bar(ax, image, "share of ‖ΔW‖² ÷ chance" + (f"\n(mean of {matrices})" if matrices > 1 else ""))
    return ax


def map_reach(tables: Tables, step: int | None) -> float:
    """Return how far the lifts of a step lie from chance, on either side: 2 for noise, at most 100."""
    values = map_grid(tables, -1 if step is None else step)[0].to_numpy(dtype="float64")
    positive = values[values > 0]
    if not positive.size:
        return _LEAST_REACH
    return min(max(float(positive.max()), 1 / float(positive.min()), _LEAST_REACH), _MOST_REACH)


def _sign(ax: Axes, away: NDArray[np.float64]) -> None:
    """Mark blocks that are well away from chance: ``away`` is −½ at the lower and ½ at the upper end of the colors."""
    rows, columns = away.shape
    for marker, chosen in (("+", away > _SIGNED), ("_", away < -_SIGNED)):
        y, x = np.nonzero(chosen)
        ink = np.where(np.abs(away[chosen]) > _DARK, "white", "black")
        ax.scatter((x + 0.5) / columns, (y + 0.5) / rows, s=4, marker=marker, c=ink, linewidths=0.5)
