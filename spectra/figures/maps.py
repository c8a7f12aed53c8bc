"""Where ΔW lies on both sides of the base's spectrum at once: |UᵀΔWV|² in bins, relative to chance."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from spectra.figures.gather import last_step, map_grid
from spectra.figures.heatmaps import colour_bar
from spectra.figures.style import new_axes, say, styled
from spectra.runs.tables import Tables

_LEAST_REACH = 2.0  # the colours reach at least to half of chance and twice chance: noise stays pale


def map_steps(tables: Tables) -> list[int]:
    """Return the steps at which some matrix has a map."""
    return sorted({int(step) for step in tables.map.dropna(subset=["share"])["step"]})


def spectral_map(tables: Tables, *, step: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw the mean share of ‖ΔW‖² in blocks of left × right singular directions of W, in units of chance.

    Parameters
    ----------
    tables
        The tables of one run.
    step
        A step of ``map``; None is the last.
    ax
        Axes to draw into; None makes a new figure.

    Returns
    -------
    Axes
        ``ax.images[0]`` holds the grid, left bins downwards, right bins to the right; white is chance.
    """
    at = last_step(tables.map) if step is None else step
    cells, matrices = map_grid(tables, -1 if at is None else at)
    with styled():
        ax = ax or new_axes(3.6, 3.0)
        if cells.empty:
            ax.set_axis_off()
            return say(ax, "no map: ΔW = 0, or only vectors train")
        values = cells.to_numpy(dtype="float64")
        positive = values[values > 0]
        reach = max(float(positive.max()), 1 / float(positive.min()), _LEAST_REACH) if positive.size else _LEAST_REACH
        norm = LogNorm(1 / min(reach, 100.0), min(reach, 100.0), clip=True)
        image = ax.imshow(
            np.maximum(values, norm.vmin or 0.0),
            cmap="PuOr_r",
            norm=norm,
            extent=(0, 1, 1, 0),
            interpolation="nearest",
            aspect="auto",
        )
        ax.set_xlabel("right singular vectors of W (input)\n0: largest σ, 1: smallest σ")
        ax.set_ylabel("left singular vectors of W (output)")
        ax.set_xticks([0, 0.5, 1])
        ax.set_yticks([0, 0.5, 1])
        ax.grid(False)
        colour_bar(
            ax, image, f"share of ‖ΔW‖² ÷ chance\n(mean of {matrices})" if matrices > 1 else "share of ‖ΔW‖² ÷ chance"
        )
    return ax
