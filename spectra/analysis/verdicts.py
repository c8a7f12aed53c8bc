"""The verdict on a run: is it healthy, and if not, what happened first and what to do.

Each rule looks at the tables, says what it measured beside its null and threshold, and may give a verdict. The first
rule in ``RULES`` that gives one decides; the evidence of all is kept.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from spectra.analysis import curves
from spectra.analysis.location import locate, matrices_at
from spectra.runs.tables import FLOAT32_ROUNDING, Tables

# An update as large as the base in operator norm has replaced the matrix's action on some direction.
_SPECTRAL_LIMIT = 1.0
_MATRICES_OVER_LIMIT = 0.1
_NO_GRADIENT = 0.95
# A reward that starts here has nothing left to learn.
_CEILING = 0.95
_RISE = 3.0
_FALL = -3.0  # as far as a rise has to be: a reward that fell must not be told to learn faster
_LAST_LOGGED = 3
_STEPS_TO_JUDGE = 20

ACTIONS = {
    "healthy": "Nothing to mend. Compare methods at each one's own best learning rate before ranking them.",
    "not_learning": (
        "Check that rewards vary within groups and that the adapter trains; then raise the learning rate tenfold."
    ),
    "diverging": "Lower the learning rate tenfold, or clip gradients, and start again from the last healthy snapshot.",
    "reward_collapsed": (
        "Lower the learning rate tenfold and start again; do not read this run's spectrum as the method's signature."
    ),
}


@dataclass(frozen=True)
class Evidence:
    """One measured fact.

    Attributes
    ----------
    metric
        What was measured.
    value, null, threshold
        The number, what chance or no change would give, and where the verdict turns.
    first_step
        First step at which it held.
    says
        The fact in words.
    """

    metric: str
    value: float | None
    null: float | None
    threshold: float | None
    first_step: int | None
    says: str


Finding = tuple[str | None, list[Evidence]]


def judge(tables: Tables, coverage: dict[str, Any], *, only_start: bool = False) -> dict[str, Any]:
    """Return the content of ``verdict.json``.

    Parameters
    ----------
    tables
        The run's tables.
    coverage
        What was analysed.
    only_start
        Whether step 0 is the only snapshot of a run that has just begun.
    """
    findings = [rule(tables) for rule in (RULES if not only_start else ())]
    verdict = next((name for name, _ in findings if name is not None), "healthy")
    deciding = [e for name, found in findings if name == verdict for e in found]
    others = [e for name, found in findings if name != verdict for e in found]
    return {
        "verdict": verdict,
        "summary": _ONLY_START if only_start else _summary(verdict, deciding, tables),
        "action": ACTIONS[verdict],
        "onset_step": deciding[0].first_step if deciding and verdict != "healthy" else None,
        "evidence": [_plain(e) for e in deciding + others],
        "coverage": coverage,
        "modules": {} if only_start else _modules(tables),
    }


def _not_finite(tables: Tables) -> Finding:
    """Find weights or gradients that are no longer numbers."""
    broken = tables.modules[tables.modules["delta_fro"].isna()]
    if len(broken):
        step = int(broken["step"].min())
        count = int(broken[broken["step"] == broken["step"].max()]["module"].nunique())
        says = f"the update of {count} modules holds NaN or infinity since step {step}"
        return "diverging", [Evidence("non_finite_modules", float(count), 0.0, 1.0, step, says)]
    return _broken_log(tables)


def _broken_log(tables: Tables) -> Finding:
    """Find a log that ends in numbers that are not finite; one that recovered is only mentioned."""
    if "non_finite" not in tables.series.columns:
        return None, []
    broken = tables.series["non_finite"].fillna(0) > 0
    step = int(tables.series["step"][broken].iloc[0])
    says = f"{int(broken.sum())} logged steps have a loss, gradient or reward that is not finite, first step {step}"
    evidence = [Evidence("non_finite_steps", float(broken.sum()), 0.0, None, step, says)]
    return ("diverging" if bool(broken.tail(_LAST_LOGGED).any()) else None), evidence


def _reward_collapse(tables: Tables) -> Finding:
    """Find a reward that fell under half of its best."""
    found = curves.collapse(curves.curve(tables.series, "reward"))
    if found is None:
        return _reward_fall(tables)
    says = (
        f"reward fell from {found.best:.2f} (best window) to {found.end:.2f} (last window), under half of its best "
        f"since step {found.onset} (z {found.z:.0f})"
    )
    return "reward_collapsed", [Evidence("reward", found.end, found.best, found.threshold, found.onset, says)]


def _reward_fall(tables: Tables) -> Finding:
    """Find a reward that ends well below where it began, short of half: training makes the policy worse."""
    found = curves.change(curves.curve(tables.series, "reward"))
    if found is None or found.z > _FALL:
        return None, []
    says = f"reward fell from {found.start:.2f} (first window) to {found.end:.2f} (last window), z {found.z:.0f}"
    return "reward_collapsed", [Evidence("reward", found.end, found.start, None, None, says)]


def _size(tables: Tables) -> Finding:
    """Measure the update against the base; as large as the base is too large."""
    matrices = tables.modules[tables.modules["relative_spectral"].notna()]
    if matrices.empty:
        return None, []
    over = (matrices["relative_spectral"] >= _SPECTRAL_LIMIT).groupby(matrices["step"]).mean()
    rows = matrices_at(tables, tables.last_step)
    fro, spectral = float(rows["relative_fro"].median()), float(rows["relative_spectral"].median())
    held = over[over >= _MATRICES_OVER_LIMIT]
    onset = int(held.index[0]) if len(held) else None
    says = f"‖ΔW‖_F/‖W‖_F is {fro:.2g}, ‖ΔW‖₂/‖W‖₂ {spectral:.2g} (medians over {len(rows)} matrices)"
    if onset is not None:
        says += f"; in {over.iloc[-1]:.0%} of the matrices the update is as large as the base"
    evidence = [Evidence("relative_spectral", spectral, 0.0, _SPECTRAL_LIMIT, onset, says)]
    return ("diverging" if len(over) and over.iloc[-1] >= _MATRICES_OVER_LIMIT else None), evidence


def _motion(tables: Tables) -> Finding:
    """Find weights that did not move at all."""
    step = tables.last_step
    largest = float(tables.modules[tables.modules["step"] == step]["relative_fro"].max())
    if largest > FLOAT32_ROUNDING:
        return None, []
    says = f"no weight has moved: the largest ‖ΔW‖/‖W‖ at step {step} is {largest:.1g}, within float32 rounding"
    return "not_learning", [Evidence("relative_fro", largest, 0.0, FLOAT32_ROUNDING, step, says)]


def _gradient(tables: Tables) -> Finding:
    """Measure how many groups gave a gradient."""
    silent = curves.curve(tables.series, "zero_advantage_share")
    if silent.empty:
        return None, []
    share = float(silent.mean())
    says = f"{share:.0%} of the groups had equal rewards and gave no gradient"
    evidence = [Evidence("zero_advantage_share", share, None, _NO_GRADIENT, None, says)]
    reward = curves.curve(tables.series, "reward")
    solved = _is_share(reward) and float(reward.mean()) >= _CEILING
    return ("not_learning" if share >= _NO_GRADIENT and not solved else None), evidence


def _learning(tables: Tables) -> Finding:
    """Measure whether the reward rose."""
    reward = curves.curve(tables.series, "reward")
    found = curves.change(reward)
    if found is None:
        says = f"{len(reward)} steps with a reward are logged: too few to say whether it learns"
        return None, [Evidence("reward_change", None, 0.0, None, None, says)]
    size = found.end - found.start
    says = f"reward went from {found.start:.2f} (first window) to {found.end:.2f} (last window), z {found.z:+.1f}"
    if found.steps < _STEPS_TO_JUDGE:
        says += f"; {found.steps} steps are too few to judge by"
    solved = _is_share(reward) and found.start >= _CEILING
    judged = found.steps >= _STEPS_TO_JUDGE and not solved
    verdict = "not_learning" if judged and found.z < _RISE else None
    return verdict, [Evidence("reward_change", size, 0.0, None, None, says)]


def _is_share(reward: pd.Series) -> bool:
    """Return whether rewards lie between 0 and 1, so that 1 is known to be the most."""
    return not reward.empty and float(reward.min()) >= 0 and float(reward.max()) <= 1


def _location(tables: Tables) -> Finding:
    """Say where the update lies: a fact beside its null, never a fault by itself."""
    step = tables.last_step
    places = [locate(tables, step, side, subspace) for side in ("left", "right") for subspace in ("principal", "minor")]
    return None, [
        Evidence(f"{p.side}_{p.subspace}_lift", p.lift, 1.0, None, None, p.words()) for p in places if p is not None
    ]


RULES: tuple[Callable[[Tables], Finding], ...] = (
    _not_finite,
    _reward_collapse,
    _size,
    _motion,
    _gradient,
    _learning,
    _location,
)


_ONLY_START = "Only step 0 is saved: nothing to judge yet."


def _summary(verdict: str, deciding: list[Evidence], tables: Tables) -> str:
    words = {
        "healthy": "Healthy: no fault found",
        "not_learning": "Not learning",
        "diverging": "Diverging",
        "reward_collapsed": "Reward collapsed",
    }[verdict]
    if verdict != "healthy":
        return f"{words}: {deciding[0].says}."
    reward = curves.curve(tables.series, "reward")
    if reward.empty:
        return f"{words} in the weights; no reward was logged, so nothing is said about learning."
    _, learned = _learning(tables)
    return f"{words}; {learned[0].says}."


def _modules(tables: Tables) -> dict[str, dict[str, str]]:
    step = tables.last_step
    rows = tables.modules[tables.modules["step"] == step]
    columns = ("module", "delta_fro", "relative_fro", "relative_spectral")
    return {
        module: _module(fro, relative, spectral)
        for module, fro, relative, spectral in rows[list(columns)].itertuples(index=False, name=None)
    }


def _module(fro: float, relative: float, spectral: float) -> dict[str, str]:
    if math.isnan(fro):
        return {"verdict": "diverging", "says": "the update holds NaN or infinity"}
    if fro == 0:
        return {"verdict": "not_learning", "says": "the update is zero"}
    if spectral >= _SPECTRAL_LIMIT:
        return {"verdict": "diverging", "says": f"‖ΔW‖₂ is {spectral:.2g} times the base's"}
    return {"verdict": "healthy", "says": f"‖ΔW‖_F/‖W‖_F {relative:.2g}"}


def _plain(evidence: Evidence) -> dict[str, Any]:
    """Return evidence for JSON, which has neither NaN nor infinity."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(evidence).items()
    }
