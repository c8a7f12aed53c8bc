"""The verdict on a run: whether it is healthy, and if not, what happened first and what to do.

Each rule of :mod:`spectra.analysis.verdict.rules` reads the tables and returns what it measured, with null and
threshold. The rules decide in this order:

1. values that are not finite;
2. bookkeeping: a fault that the doctor found in the files, or one that shows in the tables;
3. training failures (divergence, loss of rank, entropy or reward): the earliest decides, the others are reported with
   the steps in between;
4. an update locked into the leading directions of the base weights while nothing is learned;
5. nothing is learned.

The evidence of every rule is kept.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from spectra.analysis import curves
from spectra.analysis.verdict.findings import Check, plain
from spectra.analysis.verdict.rules import alignment, bookkeeping, learning, magnitude, numbers, policy, rank
from spectra.analysis.verdict.rules.outcome import Outcome, Rule
from spectra.analysis.verdict.signals import Signal, first_sign, signals
from spectra.runs.tables import FLOAT32_ROUNDING, Tables

ACTIONS = {
    "healthy": "No action needed. Tune the learning rate per method before you rank methods.",
    "not_learning": (
        "Check that rewards vary within groups and that the adapter trains. Then raise the learning rate tenfold."
    ),
    "principal_locked": (
        "Try an initialization outside the leading directions of the base weights (plain LoRA), or a tenth of this "
        "learning rate."
    ),
    "rank_collapsed": (
        "Restart from the last snapshot before the rank fell, with a lower learning rate or α. As it is, a rank-1 "
        "adapter would do the same."
    ),
    "diverging": "Lower the learning rate tenfold, or clip gradients, and restart from the last healthy snapshot.",
    "wrong_base": (
        "Load the adapter on the base weights it was trained on: rebuild W − s·B0·A0, or save a converted adapter. "
        "Then evaluate again; the training itself may be fine."
    ),
    "merge_drift": (
        "Keep the frozen weights in float32, or restore them after each merge. The saved adapter is not the policy "
        "that was trained."
    ),
    "entropy_collapsed": (
        "Restart from a snapshot before the entropy fell. Raise the upper clip bound or add an entropy or KL term, and "
        "drop groups in which all rewards are equal."
    ),
    "reward_collapsed": (
        "Lower the learning rate tenfold and start over. Do not read the spectrum of this run as typical of the method."
    ),
}

_TITLES = {
    "healthy": "Healthy: no fault found",
    "not_learning": "Not learning",
    "principal_locked": "Locked in the principal directions",
    "rank_collapsed": "Rank collapsed",
    "diverging": "Diverging",
    "wrong_base": "Wrong base",
    "merge_drift": "Merge drift",
    "entropy_collapsed": "Entropy collapsed",
    "reward_collapsed": "Reward collapsed",
}

# In this order if two began at the same step: the weights determine the policy.
_PROCESS: tuple[Rule, ...] = (
    magnitude.diverging,
    rank.rank_collapsed,
    policy.entropy_collapsed,
    policy.reward_collapsed,
)
_BOOKKEEPING: tuple[Rule, ...] = (bookkeeping.wrong_base, bookkeeping.merge_drift)
_LEARNING: tuple[Rule, ...] = (alignment.principal_locked, learning.still, learning.silent, learning.flat)
_FACTS: tuple[Rule, ...] = (learning.invisible, alignment.location, alignment.intruders, bookkeeping.rounding)

# Verdicts that apply to every matrix, whatever its values.
_WHOLE_RUN = ("wrong_base", "merge_drift")
_ONLY_STEP_0 = "only step 0 is saved: nothing to judge yet"


def judge(
    tables: Tables, coverage: dict[str, Any], checks: Sequence[Check] = (), *, only_start: bool = False
) -> dict[str, Any]:
    """Return the content of ``verdict.json``.

    Parameters
    ----------
    tables
        The tables of the run; a rule skips empty ones.
    coverage
        What was analyzed.
    checks
        Results of the doctor's checks.
    only_start
        Whether step 0 is the only snapshot of a run that has just started.
    """
    outcomes = [*_outcomes(tables, checks)] if not only_start else _checked(checks)
    deciding = next((o for o in outcomes if o.verdict is not None), Outcome())
    verdict = deciding.verdict or "healthy"
    faults = [check for check in checks if check.status == "fault"]
    broken = [] if only_start else signals(tables)
    evidence = [*deciding.evidence, *(e for o in outcomes if o is not deciding for e in o.evidence)]
    return {
        "verdict": verdict,
        "summary": _summary(deciding, faults, _ONLY_STEP_0 if only_start else _learning(tables), broken),
        "action": _action(verdict, faults),
        "onset_step": deciding.onset,
        "signals": [{"signal": s.name, "onset_step": s.onset_step, "says": s.says} for s in broken],
        "first_signal": broken[0].name if broken and verdict != "healthy" else None,
        "evidence": [plain(e) for e in evidence],
        "coverage": coverage,
        "modules": {} if only_start else _modules(tables, verdict),
    }


def _outcomes(tables: Tables, checks: Sequence[Check]) -> list[Outcome]:
    """Return the outcome of every rule; among those with a verdict, the deciding one comes first."""
    rules = [rule for rule in _BOOKKEEPING if not (rule is bookkeeping.merge_drift and _drift_is_measured(checks))]
    ordered = [numbers.not_finite(tables), *_checked(checks), *(rule(tables) for rule in rules)]
    ordered += _dated([rule(tables) for rule in _PROCESS])
    return ordered + [rule(tables) for rule in (*_LEARNING, *_FACTS)]


def _drift_is_measured(checks: Sequence[Check]) -> bool:
    """Return whether the doctor judged the logged drift; the rule, with another denominator, must not repeat it."""
    return any(check.name == "merge_drift" and check.evidence.metric == "frozen_drift" for check in checks)


def _checked(checks: Sequence[Check]) -> list[Outcome]:
    """Return the faults and notes of the doctor, those with a verdict first."""
    found = [
        Outcome((check.evidence,), check.verdict if check.status == "fault" else None, check.evidence.first_step)
        for check in checks
        if check.status in ("fault", "note")
    ]
    return sorted(found, key=lambda outcome: outcome.verdict is None)


def _dated(outcomes: list[Outcome]) -> list[Outcome]:
    """Return faults by earliest possible onset, the later ones with the steps in between, then other outcomes."""
    faults = sorted((o for o in outcomes if o.verdict), key=lambda o: math.inf if o.earliest is None else o.earliest)
    return [*(_after(fault, faults[0]) for fault in faults), *(o for o in outcomes if not o.verdict)]


def _after(fault: Outcome, first: Outcome) -> Outcome:
    if fault is first or fault.onset is None or first.onset is None:
        return fault
    fact, *more = fault.evidence
    steps = fault.onset - first.onset
    name = str(first.verdict).replace("_", " ")
    if steps < 0:  # began earlier, but was seen later since snapshots are far apart
        apart = first.onset - (first.earliest or 0) + 1
        when = f"within the {apart} steps between two snapshots, the second of which is {name}"
    else:
        when = f"{steps} steps after the run was first {name}"
    return replace(fault, evidence=(replace(fact, says=f"{fact.says}; {when}"), *more))


def _action(verdict: str, faults: Sequence[Check]) -> str:
    """Return the action of the fault behind the verdict; of any fault if the run is healthy otherwise."""
    own = next((c.action for c in faults if (c.verdict or "healthy") == verdict and c.action), None)
    return own or ACTIONS[verdict]


def _summary(deciding: Outcome, faults: Sequence[Check], learns: str, broken: Sequence[Signal]) -> str:
    if deciding.verdict is not None:
        sign = first_sign(broken, deciding.verdict)
        return f"{_TITLES[deciding.verdict]}: {deciding.evidence[0].says}." + (f" {sign}" if sign else "")
    if faults:  # in the files, without a verdict
        found = "; ".join(f"{check.name}, {check.evidence.says}" for check in faults)
        count = f"{len(faults)} bookkeeping fault{'s' * (len(faults) > 1)}"
        return f"No spectral fault; {count}: {found}. {_sentence(learns)}."
    return f"{_TITLES['healthy']}; {learns}." if learns != _ONLY_STEP_0 else f"{_sentence(learns)}."


def _sentence(clause: str) -> str:
    """Return a clause with its first letter in upper case."""
    return clause[:1].upper() + clause[1:]


def _learning(tables: Tables) -> str:
    """Return a clause on whether a run without a fault learns."""
    if curves.curve(tables.series, "reward").empty:
        return "no reward was logged, so learning cannot be judged"
    return learning.flat(tables).evidence[0].says


def _modules(tables: Tables, verdict: str) -> dict[str, dict[str, str]]:
    step, lost = tables.last_step, rank.collapsed_modules(tables)
    rows: pd.DataFrame = tables.modules[tables.modules["step"] == step]
    columns = ("module", "delta_fro", "relative_fro", "relative_spectral")
    return {
        module: _own_fault(fro, relative, spectral) or _shared(module in lost, relative, verdict)
        for module, fro, relative, spectral in rows[list(columns)].itertuples(index=False, name=None)
    }


def _own_fault(fro: float, relative: float, spectral: float) -> dict[str, str] | None:
    if math.isnan(fro):
        return {"verdict": "diverging", "says": "the update contains NaN or infinity"}
    if fro == 0:
        return {"verdict": "not_learning", "says": "the update is zero"}
    if relative <= FLOAT32_ROUNDING:
        return {"verdict": "not_learning", "says": f"‖ΔW‖_F/‖W‖_F {relative:.2g} is within float32 rounding"}
    if spectral >= magnitude.SPECTRAL_LIMIT:
        return {"verdict": "diverging", "says": f"‖ΔW‖₂ is {spectral:.2g} times the base's"}
    return None


def _shared(lost_rank: bool, relative: float, verdict: str) -> dict[str, str]:
    """Return the verdict on a matrix of normal size: whether it lost its rank, or shares a fault of the whole run."""
    size = f"‖ΔW‖_F/‖W‖_F {relative:.2g}"
    if lost_rank:
        return {"verdict": "rank_collapsed", "says": f"one direction holds over {rank.TOP1:.0%} of the energy; {size}"}
    if verdict in _WHOLE_RUN:
        return {"verdict": verdict, "says": f"same as the whole run; {size}"}
    return {"verdict": "healthy", "says": size if verdict == "healthy" else f"no fault in this matrix; {size}"}
