"""Mean energy shares over matrices and their enrichment over chance, from the tables alone; needs no torch.

The lift of several matrices is the mean of their shares over the mean of their expected shares. Its spread is that of
the mean under the Haar null: each matrix keeps its shape and concentration (1 / participation ratio), and matrices are
taken as independent. Matrices with ΔW = 0, or with an update that is only rounding, have no direction and are left out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from spectra.linalg.nulls.haar_moments import Null, haar_joint_share, haar_share, isotropic_rho, mean_of_independent
from spectra.runs.tables import Tables

FRACTION = 0.1  # default share of the singular directions that counts as "principal" or "minor"


@dataclass(frozen=True)
class MeanShare:
    """Mean share of energy over matrices, with its null.

    Attributes
    ----------
    share
        Mean over matrices of the share of ‖ΔW‖².
    null
        Haar null of that mean, for independent matrices.
    matrices
        Number of matrices with an update.
    """

    share: float
    null: Null
    matrices: int

    @property
    def lift(self) -> float:
        """Share over the share expected by chance: 1 is chance."""
        return self.null.lift(self.share)

    @property
    def sd(self) -> float:
        """Standard deviation of the lift under the null."""
        return self.null.sd / self.null.mean

    @property
    def z(self) -> float:
        """z-score: distance from chance in standard deviations of the null."""
        return self.null.z(self.share)


def mean_share(rows: pd.DataFrame) -> MeanShare:
    """Return the mean of some rows of :func:`share_rows`: one side and subspace, one row per matrix, at least one."""
    moments = rows[["expected", "sd"]].itertuples(index=False)
    null = mean_of_independent([Null(float(mean), float(sd)) for mean, sd in moments])
    return MeanShare(float(rows["share"].mean()), null, len(rows))


def share_rows(tables: Tables, fraction: float = FRACTION, step: int | None = None) -> pd.DataFrame:
    """Return the projection rows at the analyzed fraction nearest to ``fraction``, with the null's spread.

    Adds to the projection columns: ``sd`` (standard deviation of the share under the null) and what
    :func:`with_shapes` adds. Rows of matrices without a direction are dropped.
    """
    rows = with_shapes(tables, "projection", step)
    if rows.empty:
        return rows.assign(sd=pd.Series(dtype="float64"))
    rows = rows[rows["fraction"] == analyzed_fraction(tables, fraction)].dropna(subset=["lift"])
    return rows.assign(sd=[null_of(row).sd for row in rows.itertuples()])


def with_shapes(tables: Tables, name: str, step: int | None = None) -> pd.DataFrame:
    """Return table ``name`` (one step, or all) with each matrix's layer, module type, shape and concentration Σp²."""
    columns = ["step", "module", "layer", "kind", "out_features", "in_features", "participation_ratio"]
    resolved = tables.resolved_modules()
    matrices = resolved.loc[resolved["participation_ratio"].notna(), columns]  # ΔW = 0 and rounding have no direction
    rows = tables[name] if step is None else tables[name][tables[name]["step"] == step]
    shaped = rows.merge(matrices, on=["step", "module"], validate="many_to_one")
    shaped["in_features"] = shaped["in_features"].astype("int64")
    shaped["concentration"] = 1.0 / shaped.pop("participation_ratio")
    return shaped


def null_of(row: Any) -> Null:
    """Return the Haar null of a row with side, k, out_features, in_features and concentration."""
    k, rows, columns = int(row.k), int(row.out_features), int(row.in_features)
    if row.side == "joint":
        return haar_joint_share(k, rows, columns, float(row.concentration))
    return haar_share(k, rows if row.side == "left" else columns, float(row.concentration))


def isotropic_rhos(rows: pd.DataFrame) -> "pd.Series[float]":
    """Return ρ_Σ of a small update in random directions for rows with out_features and in_features."""
    shapes = zip(rows["out_features"], rows["in_features"], strict=True)
    return pd.Series([isotropic_rho(int(o), int(i)) for o, i in shapes], index=rows.index, dtype="float64")


def analyzed_fraction(tables: Tables, fraction: float = FRACTION) -> float:
    """Return the analyzed fraction nearest to ``fraction``; ``fraction`` itself if the table is empty."""
    analyzed = tables.projection["fraction"].unique()
    return float(analyzed[np.abs(analyzed - fraction).argmin()]) if len(analyzed) else fraction
