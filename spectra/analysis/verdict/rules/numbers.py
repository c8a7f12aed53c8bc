"""Weights or logs with NaN or infinity: nothing else can be trusted then."""

from spectra.analysis.verdict.findings import Evidence
from spectra.analysis.verdict.rules.outcome import NOTHING, Outcome
from spectra.runs.tables import Tables

_LAST_LOGGED = 3


def not_finite(tables: Tables) -> Outcome:
    """Detect NaN or infinity in weights, or at the end of the log; a log that recovered is only noted."""
    broken = tables.modules[tables.modules["delta_fro"].isna()]
    if broken.empty:
        return _log(tables)
    step = int(broken["step"].min())
    count = int(broken[broken["step"] == broken["step"].max()]["module"].nunique())
    says = f"the update of {count} modules contains NaN or infinity since step {step}"
    return Outcome((Evidence("non_finite_modules", float(count), 0.0, 1.0, step, says),), "diverging", step, step)


def _log(tables: Tables) -> Outcome:
    if "non_finite" not in tables.series.columns:
        return NOTHING
    broken = tables.series["non_finite"].fillna(0) > 0
    if not broken.any():
        return NOTHING
    step = int(tables.series["step"][broken].iloc[0])
    says = (
        f"{int(broken.sum())} logged steps have a loss, gradient or reward that is not finite, the first at step {step}"
    )
    evidence = (Evidence("non_finite_steps", float(broken.sum()), 0.0, None, step, says),)
    return Outcome(evidence, "diverging", step, step) if broken.tail(_LAST_LOGGED).any() else Outcome(evidence)
