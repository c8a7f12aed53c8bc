"""Where a whole run's update lies in the base's spectrum, over all matrices, against chance."""

from dataclasses import dataclass

import pandas as pd

from spectra.linalg.nulls import Null, haar_share, mean_of_independent
from spectra.runs.tables import Tables

# At this many standard deviations of the Haar null a mean over matrices is called more, or less, than chance.
SIGNIFICANT = 3.0
# Nearer to chance than this is said to be near chance, however many matrices make the null narrow.
RELEVANT = 0.1


@dataclass(frozen=True)
class Location:
    """Mean share of energy over matrices, with its null.

    Attributes
    ----------
    side, subspace, fraction
        As in the projection table.
    share
        Mean over matrices of the share of ‖ΔW‖².
    null
        Haar null of that mean; matrices are independent.
    matrices
        How many matrices have an update.
    """

    side: str
    subspace: str
    fraction: float
    share: float
    null: Null
    matrices: int

    @property
    def lift(self) -> float:
        """Share over what chance gives."""
        return self.null.lift(self.share)

    @property
    def z(self) -> float:
        """Distance from chance in standard deviations of the null."""
        return self.null.z(self.share)

    def words(self) -> str:
        """Return the finding in words; z takes the matrices' orientations as independent."""
        name = f"{self.side} {self.subspace} {self.fraction:.0%}: {self.lift:.2f} × chance"
        if abs(self.z) < SIGNIFICANT:
            return f"{name}, indistinguishable from a random direction (z {self.z:+.1f})"
        if abs(self.lift - 1) < RELEVANT:
            return f"{name}, within {RELEVANT:.0%} of chance (z {self.z:+.1f})"
        return f"{name}, {'more' if self.z > 0 else 'less'} than chance (z {self.z:+.1f})"


def locate(tables: Tables, step: int, side: str, subspace: str = "principal", fraction: float = 0.1) -> Location | None:
    """Return where the update of one step lies, None where no matrix has an update.

    Parameters
    ----------
    tables
        The run's tables.
    step
        A step that was analysed.
    side
        ``left`` or ``right``.
    subspace
        ``principal`` or ``minor``.
    fraction
        Fraction of the base's singular directions.
    """
    rows = tables.projection.query(
        "step == @step and side == @side and subspace == @subspace and fraction == @fraction"
    )
    modules = tables.resolved_modules().query("step == @step")
    rows = rows.merge(modules[["module", "out_features", "in_features", "participation_ratio"]], on="module")
    rows = rows[rows["participation_ratio"].notna()]
    if rows.empty:
        return None
    dimensions = rows["out_features" if side == "left" else "in_features"].astype(int)
    known = zip(rows["k"], dimensions, rows["participation_ratio"], strict=True)
    null = mean_of_independent([haar_share(int(k), int(d), 1 / participation) for k, d, participation in known])
    return Location(side, subspace, fraction, float(rows["share"].mean()), null, len(rows))


def matrices_at(tables: Tables, step: int) -> pd.DataFrame:
    """Return the rows of ``modules`` that are matrices at one step."""
    modules = tables.resolved_modules()
    return modules[(modules["step"] == step) & modules["in_features"].notna()]
