"""Effective rank of the update, and whether the update lost rank."""

import pandas as pd

from spectra.analysis.verdict.findings import Evidence
from spectra.analysis.verdict.rules.outcome import NOTHING, Outcome, above_rounding, lasting, matrices
from spectra.runs.tables import Tables

# One direction holds nearly all energy. A rank that is low throughout is a fact; a rank that was lost is a fault.
TOP1 = 0.9
# Fraction of the early directions beyond the first that are left.
_LEFT = 0.5
_HAD = 2.0
_MOST = 0.5
# Early means the first third of the snapshots: Adam's first steps have high rank, and a single one is not reliable.
_EARLY = 3


def rank_collapsed(tables: Tables) -> Outcome:
    """Detect an update whose effective rank (entropy of σ²) fell to about one from an early value of two or more."""
    rows = above_rounding(matrices(tables))
    wide = rows[rows["rank_bound"] > 1].pivot(index="step", columns="module", values="effective_rank_energy")
    if len(wide) < 2:
        return NOTHING
    early = _early(wide)
    value, had = float(wide.iloc[-1].median()), float(early.median())
    bound = float(rows["rank_bound"].median())
    says = f"effective rank of ΔW went from {had:.1f} early to {value:.1f} (maximum {bound:.0f})"
    gone = _gone(rows, wide, early)
    part = float(gone.iloc[-1].mean())
    if part < _MOST:
        return Outcome((Evidence("effective_rank_energy", value, had, None, None, says),))
    held = _fell(wide, early).mean(axis=1) >= _MOST
    began = lasting(held) or 0
    onset = int(wide.index[began])
    earliest = int(wide.index[began - 1]) + 1 if began else onset
    says += f"; in {part:.0%} of the matrices, one direction holds over {TOP1:.0%} of the energy"
    threshold = 1 + _LEFT * (had - 1)
    return Outcome(
        (Evidence("effective_rank_energy", value, had, threshold, onset, says),), "rank_collapsed", onset, earliest
    )


def collapsed_modules(tables: Tables) -> frozenset[str]:
    """Return the matrices that lost their rank, regardless of the others."""
    rows = above_rounding(matrices(tables))
    wide = rows[rows["rank_bound"] > 1].pivot(index="step", columns="module", values="effective_rank_energy")
    if len(wide) < 2:
        return frozenset()
    last = _gone(rows, wide, _early(wide)).iloc[-1]
    return frozenset(str(module) for module in last.index[last])


def _early(ranks: pd.DataFrame) -> pd.Series:
    return ranks.iloc[: max(1, len(ranks) // _EARLY)].max()


def _gone(rows: pd.DataFrame, ranks: pd.DataFrame, early: pd.Series) -> pd.DataFrame:
    """Return where the rank fell and one direction holds nearly all energy."""
    top1 = rows.pivot(index="step", columns="module", values="top1_energy").reindex_like(ranks)
    return _fell(ranks, early) & (top1 >= TOP1)


def _fell(ranks: pd.DataFrame, early: pd.Series) -> pd.DataFrame:
    """Return where half of the directions beyond the first are lost; a matrix without such directions lost none."""
    return (ranks - 1 <= _LEFT * (early - 1)) & (early >= _HAD)
