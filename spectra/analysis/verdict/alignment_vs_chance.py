"""Alignment of the update with the singular spectrum of the base weights, over all matrices, against chance."""

import math
from dataclasses import dataclass

import pandas as pd

from spectra.runs.tables import Tables
from spectra.statistics.shares import FRACTION, MeanShare, mean_share, share_rows

# From this many standard deviations of the Haar null on, a mean over matrices counts as more, or less, than chance.
SIGNIFICANT = 3.0
# A lift within this distance of 1 counts as near chance, however narrow many matrices make the null.
RELEVANT = 0.1
# A side that keeps this much of its initial subspace has turned by at most six degrees on average: it has not left it.
AT_INITIALIZATION = 0.99
# If chance gives more than this, the initial subspace is most of the whole space, and keeping it is no evidence.
_INITIAL_MUST_BE_SMALL = 0.5


@dataclass(frozen=True)
class InitialOverlap:
    """Overlap of one side of the update with the subspace of the run's first factors.

    Attributes
    ----------
    step
        The snapshot that the first factors are taken from.
    share, expected
        Mean over matrices of ``{side}_at_start`` in the trajectory table, and of its expectation by chance.
    """

    step: int
    share: float
    expected: float

    @property
    def holds(self) -> bool:
        """Whether the side has not left its initial subspace."""
        return self.share >= AT_INITIALIZATION and self.expected <= _INITIAL_MUST_BE_SMALL

    def describe(self) -> str:
        """Return a clause; a first snapshot after step 0 need not be the initialization."""
        overlap = f"overlap {math.floor(self.share * 1e4) / 1e4:.4f} with step {self.step}"
        if self.step == 0:
            return f"this side has not left its initial subspace ({overlap})"
        return f"this side has not left the subspace of the first snapshot ({overlap}); its initialization is not saved"


@dataclass(frozen=True)
class Location(MeanShare):
    """Mean fraction of ‖ΔW‖² over matrices on one side, with its null and its overlap with the initialization.

    Attributes
    ----------
    side, subspace, fraction
        As in the projection table.
    initial
        Overlap of the side with its initial subspace, None if unknown.
    """

    side: str
    subspace: str
    fraction: float
    initial: InitialOverlap | None = None

    @property
    def at_initialization(self) -> bool:
        """Whether the side has not left its initial subspace: its alignment is then not evidence of learning."""
        return self.initial is not None and self.initial.holds

    def describe(self) -> str:
        """Return the finding as a sentence; z assumes that the orientations of the matrices are independent."""
        found = f"{self.side} {self.subspace} {self.fraction:.0%}: {self.lift:.2f} × chance, {self._against_chance()}"
        if self.initial is None or not self.initial.holds:
            return found
        if self._is_near_chance():
            return f"{found}; {self.initial.describe()}: not evidence of learning"
        # LoRA's B picks directions in the row space of a random A: that alone gives a lift up to (1 + √(R/k))².
        return f"{found}; {self.initial.describe()}: selection within the initial subspace, not rotation"

    def _is_near_chance(self) -> bool:
        return abs(self.z) < SIGNIFICANT or abs(self.lift - 1) < RELEVANT

    def _against_chance(self) -> str:
        if abs(self.z) < SIGNIFICANT:
            return f"indistinguishable from a random direction (z {self.z:+.1f})"
        if abs(self.lift - 1) < RELEVANT:
            return f"within {RELEVANT:.0%} of chance (z {self.z:+.1f})"
        return f"{'more' if self.z > 0 else 'less'} than chance (z {self.z:+.1f})"


def locate(
    tables: Tables, step: int, side: str, subspace: str = "principal", fraction: float = FRACTION
) -> Location | None:
    """Return the alignment of the update at one step, None if no matrix has an update.

    Parameters
    ----------
    tables
        The run's tables.
    step
        A step that was analyzed.
    side
        ``left``, ``right`` or ``joint``.
    subspace
        ``principal`` or ``minor``.
    fraction
        Fraction of the base's singular directions; the nearest analyzed fraction is used.
    """
    rows = share_rows(tables, fraction, step)
    rows = rows[(rows["side"] == side) & (rows["subspace"] == subspace)]
    if rows.empty:
        return None
    mean = mean_share(rows)
    at = float(rows["fraction"].iloc[0])
    return Location(mean.share, mean.null, mean.matrices, side, subspace, at, initial_overlap(tables, step, side))


def initial_overlap(tables: Tables, step: int, side: str) -> InitialOverlap | None:
    """Return the overlap of a side with its initial subspace, None if the trajectory table has no value."""
    column = f"{side}_at_start"
    if column not in tables.trajectory.columns:  # the joint side has no such column
        return None
    known = tables.trajectory[tables.trajectory[column].notna()]
    now = known[known["step"] == step]
    if now.empty:
        return None
    return InitialOverlap(
        _first_factors(tables, int(known["step"].min())),
        float(now[column].mean()),
        float(now[f"expected_{column}"].mean()),
    )


def _first_factors(tables: Tables, first_known: int) -> int:
    """Return the step of the snapshot whose factors the later ones are compared with.

    It is the last snapshot without a value if something had moved by then. Otherwise it is the first: while B is zero,
    as in a warm-up, LoRA's A keeps its initialization.
    """
    before = tables.trajectory.loc[tables.trajectory["step"] < first_known, "step"]
    moved = tables.modules.loc[tables.modules["delta_fro"] > 0, "step"]
    return int(before.max() if before.max() in set(moved) else before.min())


def matrices_at(tables: Tables, step: int) -> pd.DataFrame:
    """Return the rows of ``modules`` at one step that are matrices."""
    modules = tables.resolved_modules()
    return modules[(modules["step"] == step) & modules["in_features"].notna()]
