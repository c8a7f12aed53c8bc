"""Do several runs move the weights the same way? Mean cosine of their updates, run by run."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from spectra.figures.data.snapshots import pair_grid
from spectra.figures.plots.heatmaps import color_bar
from spectra.figures.style.style import FULL_WIDTH, new_axes, say, short, styled

_WITH_Z = 8  # more runs leave no room for z in a cell
_WITH_VALUE = 16


def pair_cosines(pairs: pd.DataFrame, runs: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Draw the mean cosine of every two runs' updates over the matrices that both change, with its z.

    Parameters
    ----------
    pairs
        A row is run × run × matrix, with ``run_a``, ``run_b``, ``cosine``, ``z_cosine``.
    runs
        The runs, in the order of rows and columns.
    ax
        Axes to draw into; None makes a new figure.

    Returns
    -------
    Axes
        ``ax.images[0]`` holds the cosines, NaN on the diagonal; white is 0, which unrelated updates have.
    """
    cosine, z = pair_grid(pairs, runs)
    names = [short(name, 22) for name in runs]
    with styled():
        ax = ax or new_axes(FULL_WIDTH, 1.3 + 0.05 * max(map(len, names), default=0) + 0.3 * max(len(names), 3))
        if cosine.isna().all(axis=None):
            ax.set_axis_off()
            return say(ax, "no two runs change a common matrix")
        reach = max(float(np.nanmax(cosine.abs().to_numpy())), 0.1)
        image = ax.imshow(
            cosine,
            cmap=colormaps["PuOr_r"].with_extremes(bad="#eeeeee"),
            norm=Normalize(-reach, reach),
            interpolation="nearest",
            aspect="auto",
        )
        ax.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(length=0)
        ax.grid(False)
        if len(names) <= _WITH_VALUE:
            _write(ax, cosine, z, reach)
        color_bar(ax, image, "mean cosine of ΔW")
    return ax


def _write(ax: Axes, cosine: pd.DataFrame, z: pd.DataFrame, reach: float) -> None:
    distance = z.to_numpy(dtype="float64")
    size = 6.5 if len(cosine) <= _WITH_Z else 5.5
    for (row, column), value in np.ndenumerate(cosine.to_numpy()):
        if np.isfinite(value):
            at = float(distance[row, column])
            below = f"\nz {at:+.0f}" if len(cosine) <= _WITH_Z and np.isfinite(at) else ""
            ink = "white" if abs(value) > 0.6 * reach else "black"
            words = f"{value:.2f}{below}".replace("-", "−")
            ax.text(column, row, words, ha="center", va="center", fontsize=size, color=ink)
