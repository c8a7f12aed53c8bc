"""Update energy along the base's singular index, averaged over matrices of any shape, beside the Haar null.

Matrices differ in their number q of singular directions, so an index is drawn as a position between 0 (the largest
singular value) and 1 (the smallest).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spectra.figures.data.run_frames import once_per_run
from spectra.figures.data.summaries import BAND, QUANTILES, Side, check, resolve_step, with_shapes
from spectra.linalg.nulls.haar_moments import haar_share
from spectra.runs.tables import Tables

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Matrix:
    """One matrix: its bins along the singular index, the energy in them, and what its null needs."""

    lo: NDArray[np.int64]
    hi: NDArray[np.int64]
    update: Array
    base: Array
    expected: Array
    directions: int  # q
    dim: int
    concentration: float

    def density(self, energy: Array, position: Array) -> Array:
        """Return energy per unit of position at each position; bins may differ in width between matrices."""
        found = np.searchsorted(self.hi / self.directions, position, side="right")
        widths = (self.hi - self.lo) / self.directions
        at: Array = (energy / widths)[np.minimum(found, len(self.hi) - 1)]
        return at

    def null_sd(self, k: int) -> float:
        """Return the null's standard deviation of the share in k directions."""
        return haar_share(k, self.dim, self.concentration).sd

    @property
    def bin_sds(self) -> Array:
        """The null's standard deviation of the share in each bin."""
        return np.array([self.null_sd(k) for k in (self.hi - self.lo).tolist()])


def profile_curve(tables: Tables, side: Side, step: int | None = None) -> pd.DataFrame:
    """Return update and base energy along the singular index, in units of chance.

    Parameters
    ----------
    side
        ``left``: the base's left singular vectors (output space); ``right``: the right ones (input space).
    step
        An analyzed step; None is the last.

    Returns
    -------
    pd.DataFrame
        A row is a bin: ``position`` (its middle), ``update`` and ``base`` (mean share over matrices / mean of chance),
        ``low``, ``high`` (10 % and 90 % quantile of share / chance across matrices), ``null_low``, ``null_high`` (1 ± 2
        standard deviations of the mean under the Haar null), ``matrices``. No rows where every ΔW is 0.
    """
    matrices = _matrices(tables, side, resolve_step(tables, step))
    if not matrices:
        return _no_rows("position", "update", "base", "low", "high", "null_low", "null_high", "matrices")
    count = max(len(m.hi) for m in matrices)
    position = (np.arange(count) + 0.5) / count
    update, base, expected, sds = (
        np.stack([m.density(energy, position) for m, energy in zip(matrices, energies, strict=True)])
        for energies in zip(*((m.update, m.base, m.expected, m.bin_sds) for m in matrices), strict=True)
    )
    low, high = np.quantile(update / expected, QUANTILES, axis=0)
    chance = expected.mean(axis=0)
    band = BAND * _sd_of_mean(sds) / chance
    return pd.DataFrame(
        {
            "position": position,
            "update": update.mean(axis=0) / chance,
            "base": base.mean(axis=0) / chance,
            "low": low,
            "high": high,
            "null_low": np.maximum(1.0 - band, 0.0),
            "null_high": 1.0 + band,
            "matrices": len(matrices),
        }
    )


def cumulative_curve(tables: Tables, side: Side, step: int | None = None) -> pd.DataFrame:
    """Return the cumulative share of ‖ΔW‖² (and of ‖W‖²) up to each position of the singular index.

    Shares are of the whole norm: the last row falls short of 1 by what lies outside the base's singular vectors.

    Returns
    -------
    pd.DataFrame
        A row is a bin edge, from 0 to 1: ``position``, ``update`` and ``base`` (means over matrices), ``expected``
        (mean of the null), ``null_low``, ``null_high`` (expected ± 2 standard deviations of the mean), ``matrices``.
    """
    matrices = _matrices(tables, side, resolve_step(tables, step))
    if not matrices:
        return _no_rows("position", "update", "base", "expected", "null_low", "null_high", "matrices")
    count = max(len(m.hi) for m in matrices)
    position = np.arange(count + 1) / count
    expected = np.mean([position * m.directions / m.dim for m in matrices], axis=0)
    sds = np.stack([[m.null_sd(round(x * m.directions)) for x in position.tolist()] for m in matrices])
    band = BAND * _sd_of_mean(sds)
    return pd.DataFrame(
        {
            "position": position,
            "update": np.mean([_running(m, m.update, position) for m in matrices], axis=0),
            "base": np.mean([_running(m, m.base, position) for m in matrices], axis=0),
            "expected": expected,
            "null_low": np.maximum(expected - band, 0.0),
            "null_high": np.minimum(expected + band, 1.0),
            "matrices": len(matrices),
        }
    )


def widest_band(curves: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return position, null_low and null_high of the widest null among several profile curves, at every position."""
    drawn = [curve for curve in curves.values() if not curve.empty]
    if not drawn:
        return _no_rows("position", "null_low", "null_high")
    position = max(drawn, key=len)["position"].to_numpy()
    high = np.max([np.interp(position, c["position"], c["null_high"]) for c in drawn], axis=0)
    return pd.DataFrame({"position": position, "null_low": np.maximum(2.0 - high, 0.0), "null_high": high})


@once_per_run
def _matrices(tables: Tables, side: Side, step: int) -> list[_Matrix]:
    check(side, Side, "side")
    rows = with_shapes(tables, "profile", step)
    rows = rows[rows["side"] == side].dropna(subset=["update_share"]).sort_values(["module", "index_lo"])
    return [_matrix(group, side) for _, group in rows.groupby("module", sort=True)]


def _matrix(rows: pd.DataFrame, side: Side) -> _Matrix:
    first = rows.iloc[0]
    out_features, in_features = int(first["out_features"]), int(first["in_features"])
    return _Matrix(
        lo=rows["index_lo"].to_numpy(),
        hi=rows["index_hi"].to_numpy(),
        update=rows["update_share"].to_numpy(dtype="float64"),
        base=rows["base_share"].to_numpy(dtype="float64"),
        expected=rows["expected"].to_numpy(dtype="float64"),
        directions=min(out_features, in_features),
        dim=out_features if side == "left" else in_features,
        concentration=float(first["concentration"]),
    )


def _sd_of_mean(sds: Array) -> Array:
    """Return the standard deviation of the mean over the first axis of independent values."""
    total: Array = np.sqrt((sds**2).sum(axis=0)) / len(sds)
    return total


def _running(matrix: _Matrix, shares: Array, position: Array) -> Array:
    edges = np.concatenate([[0.0], matrix.hi / matrix.directions])
    running: Array = np.interp(position, edges, np.concatenate([[0.0], np.cumsum(shares)]))
    return running


def _no_rows(*columns: str) -> pd.DataFrame:
    return pd.DataFrame({column: pd.Series(dtype="float64") for column in columns})
