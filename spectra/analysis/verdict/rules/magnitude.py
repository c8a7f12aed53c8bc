"""Size of the update relative to the base weights, and since when it diverges."""

import math

import pandas as pd

from spectra.analysis.verdict.findings import Evidence
from spectra.analysis.verdict.rules.outcome import NOTHING, Outcome, lasting, matrices
from spectra.runs.tables import Tables

# An update as large as the base in operator norm has replaced the action of the matrix on some direction.
SPECTRAL_LIMIT = 1.0
_MATRICES_OVER_LIMIT = 0.1
# Exponent of ‖ΔW‖ over steps: 1/2 for a random walk, 1 for a constant drift; more counts as diverging.
_ACCELERATION = 1.5


def diverging(tables: Tables) -> Outcome:
    """Compare the update with the base; as large as the base in a tenth of the matrices counts as diverging."""
    rows = matrices(tables)
    if rows.empty:
        return NOTHING
    over = (rows["relative_spectral"] >= SPECTRAL_LIMIT).groupby(rows["step"]).mean()
    now = rows[rows["step"] == rows["step"].max()]
    fro, spectral = float(now["relative_fro"].median()), float(now["relative_spectral"].median())
    says = f"‖ΔW‖_F/‖W‖_F is {fro:.2g}, ‖ΔW‖₂/‖W‖₂ {spectral:.2g} (medians over {len(now)} matrices)"
    crossed = lasting(over >= _MATRICES_OVER_LIMIT)
    if crossed is None:
        return Outcome((Evidence("relative_spectral", spectral, 0.0, SPECTRAL_LIMIT, None, says),))
    large = now["module"][now["relative_spectral"] >= SPECTRAL_LIMIT]
    level = rows[rows["module"].isin(large)].groupby("step")["relative_spectral"].median()
    onset, earliest, how = _date(level, crossed)
    says += f"; in {over.iloc[-1]:.0%} of the matrices the update is as large as the base{how}"
    evidence = (Evidence("relative_spectral", spectral, 0.0, SPECTRAL_LIMIT, onset, says),)
    return Outcome(evidence, "diverging", onset, earliest)


def _date(level: pd.Series, crossed: int) -> tuple[int, int, str]:
    """Return the onset of divergence, the first step at which it can have begun, and a clause for the sentence."""
    steps = [int(step) for step in level.index]
    began = accelerating(level, crossed)
    if began < crossed:
        words = f"; it has grown faster than linearly since step {steps[began]}"
        return steps[began + 1], steps[began] + 1, words
    # No acceleration: date the crossing of the limit, by linear interpolation between snapshots.
    before, size = (steps[crossed - 1], float(level.iloc[crossed - 1])) if crossed else (0, 0.0)
    share = min(max((SPECTRAL_LIMIT - size) / (float(level.iloc[crossed]) - size), 0.0), 1.0)
    return steps[crossed], before + math.ceil(share * (steps[crossed] - before)), ""


def accelerating(level: pd.Series, last: int) -> int:
    """Return the position of the snapshot after which a positive size grew faster than linearly up to ``last``.

    ``last`` itself if the size did not.
    """
    position = last
    while position > 0:
        step, next_step = (int(level.index[at]) for at in (position - 1, position))
        size, next_size = (float(level.iloc[at]) for at in (position - 1, position))
        if not (step > 0 and size > 0 and math.log(next_size / size) > _ACCELERATION * math.log(next_step / step)):
            break
        position -= 1
    return position
