"""Outcome of a rule, and the table rows that rules read."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from spectra.analysis.verdict.findings import Evidence, Verdict
from spectra.runs.tables import Tables


@dataclass(frozen=True)
class Outcome:
    """Outcome of one rule.

    Attributes
    ----------
    evidence
        The measured facts; the deciding one comes first.
    verdict
        The fault, None if the rule finds none.
    onset
        Step at which the fault was first seen, None if it cannot be dated.
    earliest
        First step at which it can have begun: for the weights, the step after the last snapshot without the fault.
    """

    evidence: tuple[Evidence, ...] = ()
    verdict: Verdict | None = None
    onset: int | None = None
    earliest: int | None = None


# At this multiple of the rounding floor, noise holds 4 % of the energy, and a rank of 1 measures as 1.3.
_TIMES_ROUNDING = 5.0

Rule = Callable[[Tables], Outcome]

NOTHING = Outcome()


def matrices(tables: Tables) -> pd.DataFrame:
    """Return the rows of ``modules`` that are matrices with a finite update above rounding."""
    rows = tables.resolved_modules()
    return rows[rows["in_features"].notna() & rows["participation_ratio"].notna()]


def shares(tables: Tables, side: str) -> pd.DataFrame:
    """Return the rows of ``projection`` for one side, of matrices with a resolved update."""
    rows = tables.projection[tables.projection["side"] == side]
    return rows.merge(matrices(tables)[["step", "module"]], on=["step", "module"])


def above_rounding(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose measured rank is that of ΔW.

    Half-precision storage adds noise of full rank. While ΔW is small, that noise dominates the measured rank, and the
    growth of ΔW above it would look like a loss of rank.
    """
    return rows[rows["delta_fro"] >= _TIMES_ROUNDING * rows["rounding_fro"].fillna(0.0)]


def lasting(held: pd.Series) -> int | None:
    """Return the position from which a condition, by step, holds to the end; None if it does not hold at the end.

    >>> lasting(pd.Series([True, False, True, True])), lasting(pd.Series([True, False]))
    (2, None)
    """
    flags = held.to_numpy(dtype=bool)
    if not len(flags) or not flags[-1]:
        return None
    position = len(flags) - 1
    while position > 0 and flags[position - 1]:
        position -= 1
    return position
