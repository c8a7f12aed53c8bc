"""Weights and logs that are no longer numbers: nothing else can be trusted."""

from spectra.analysis.verdict.findings import Evidence
from spectra.analysis.verdict.rules.outcome import NOTHING, Outcome
from spectra.runs.tables import Tables

_LAST_LOGGED = 3


def not_finite(tables: Tables) -> Outcome:
    """Find weights that hold NaN or infinity, or a log that ends in them; a log that recovered is only mentioned."""
    broken = tables.modules[tables.modules["delta_fro"].isna()]
    if broken.empty:
        return _log(tables)
    step = int(broken["step"].min())
    count = int(broken[broken["step"] == broken["step"].max()]["module"].nunique())
    says = f"the update of {count} modules holds NaN or infinity since step {step}"
    return Outcome((Evidence("non_finite_modules", float(count), 0.0, 1.0, step, says),), "diverging", step, step)


def _log(tables: Tables) -> Outcome:
    if "non_finite" not in tables.series.columns:
        return NOTHING
    broken = tables.series["non_finite"].fillna(0) > 0
    if not broken.any():
        return NOTHING
    step = int(tables.series["step"][broken].iloc[0])
    says = f"{int(broken.sum())} logged steps have a loss, gradient or reward that is not finite, first step {step}"
    evidence = (Evidence("non_finite_steps", float(broken.sum()), 0.0, None, step, says),)
    return Outcome(evidence, "diverging", step, step) if broken.tail(_LAST_LOGGED).any() else Outcome(evidence)
