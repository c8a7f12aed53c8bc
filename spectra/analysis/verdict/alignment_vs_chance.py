"""Where a whole run's update lies in the base's spectrum, over all matrices, against chance."""

import math
from dataclasses import dataclass

import pandas as pd

from spectra.runs.tables import Tables
from spectra.statistics.shares import FRACTION, MeanShare, mean_share, share_rows

# At this many standard deviations of the Haar null a mean over matrices is called more, or less, than chance.
SIGNIFICANT = 3.0
# Nearer to chance than this is said to be near chance, however many matrices make the null narrow.
RELEVANT = 0.1
# A side that keeps this much of its start's space has turned by six degrees on average: it is its start.
AT_START = 0.99
# Where chance gives more than this, the start's space is most of the whole, and keeping it says nothing.
_START_MUST_BE_SMALL = 0.5


@dataclass(frozen=True)
class Start:
    """How much of a side's space is that of the run's first factors.

    Attributes
    ----------
    step
        The snapshot that they are taken from.
    share, expected
        Mean over matrices of ``{side}_at_start`` in the trajectory table, and of what chance gives.
    """

    step: int
    share: float
    expected: float

    @property
    def holds(self) -> bool:
        """Whether the side is still where it began."""
        return self.share >= AT_START and self.expected <= _START_MUST_BE_SMALL

    def words(self) -> str:
        """Return where the side still is; step 0 is a start, a later snapshot only the first that is known."""
        overlap = f"overlap {math.floor(self.share * 1e4) / 1e4:.4f} with step {self.step}"
        if self.step == 0:
            return f"this side is still in the space of its start ({overlap})"
        return f"this side has not left the space of the first snapshot ({overlap}), and its start is not saved"


@dataclass(frozen=True)
class Location(MeanShare):
    """Mean share of energy over matrices on one side, with its null and the run's start.

    Attributes
    ----------
    side, subspace, fraction
        As in the projection table.
    start
        How much of the side is still at the run's start, None where that is not known.
    """

    side: str
    subspace: str
    fraction: float
    start: Start | None = None

    @property
    def at_start(self) -> bool:
        """Whether the side is still where the run began, so that its place is not what training learned."""
        return self.start is not None and self.start.holds

    def words(self) -> str:
        """Return the finding in words; z takes the matrices' orientations as independent."""
        found = f"{self.side} {self.subspace} {self.fraction:.0%}: {self.lift:.2f} × chance, {self._against_chance()}"
        if self.start is None or not self.start.holds:
            return found
        if self._is_near_chance():
            return f"{found}; {self.start.words()}: not read as learning"
        # LoRA's B picks directions in the row space of a random A: that alone gives a lift up to (1 + √(R/k))².
        return f"{found}; {self.start.words()}: read as a choice within it, not as a turn"

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
    """Return where the update of one step lies, None where no matrix has an update.

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
        Fraction of the base's singular directions; the nearest analyzed one is taken.
    """
    rows = share_rows(tables, fraction, step)
    rows = rows[(rows["side"] == side) & (rows["subspace"] == subspace)]
    if rows.empty:
        return None
    mean = mean_share(rows)
    at = float(rows["fraction"].iloc[0])
    return Location(mean.share, mean.null, mean.matrices, side, subspace, at, start_of(tables, step, side))


def start_of(tables: Tables, step: int, side: str) -> Start | None:
    """Return how much of a side is still at the run's start, None where the trajectory table does not know."""
    column = f"{side}_at_start"
    if column not in tables.trajectory.columns:  # both sides jointly
        return None
    known = tables.trajectory[tables.trajectory[column].notna()]
    now = known[known["step"] == step]
    if now.empty:
        return None
    return Start(
        _first_factors(tables, int(known["step"].min())),
        float(now[column].mean()),
        float(now[f"expected_{column}"].mean()),
    )


def _first_factors(tables: Tables, first_known: int) -> int:
    """Return the snapshot whose factors the later ones are compared with.

    It is the last one without a number, if something had moved there. If nothing had, it is the first: while B is zero,
    as in a warm-up, LoRA's A stays where it began.
    """
    before = tables.trajectory.loc[tables.trajectory["step"] < first_known, "step"]
    moved = tables.modules.loc[tables.modules["delta_fro"] > 0, "step"]
    return int(before.max() if before.max() in set(moved) else before.min())


def matrices_at(tables: Tables, step: int) -> pd.DataFrame:
    """Return the rows of ``modules`` that are matrices at one step."""
    modules = tables.resolved_modules()
    return modules[(modules["step"] == step) & modules["in_features"].notna()]
