"""Collapse of the policy in the training log: loss of entropy, fall of the reward."""

import pandas as pd

from spectra.analysis import curves
from spectra.analysis.verdict.findings import Evidence
from spectra.analysis.verdict.rules.learning import LINES_TO_JUDGE, RISE, at_ceiling, is_share
from spectra.analysis.verdict.rules.outcome import NOTHING, Outcome
from spectra.runs.tables import Tables

# RLVR loses three quarters of its entropy and still learns; with a tenth left, nothing new is tried.
_ENTROPY_LEFT = 0.1
# A plateau is mistaken for a rise in 0.2 % of the runs at 4, in 1 % at 3.
_STILL_RISES = 4.0
# A fall is reported from the same z as a rise, and called a collapse from this one on: flat curves of 40 to 240 lines
# fall by 3 in 0.5 % of the runs, by 4 in 0.06 %.
_FALL = -4.0
# Fraction of the initial level above the floor. A curve that ends within 5 % of its ceiling has lost less.
_LOST = 0.1
# Fewest logged lines for a fall below half of the best: a fall by 4.5 standard errors needs fewer lines than a trend.
_LINES_OF_COLLAPSE = 12


def entropy_collapsed(tables: Tables) -> Outcome:
    """Detect an entropy that fell below a tenth of its initial level for good while there was something to learn.

    A solved task needs no entropy, and a reward that still rises in the later half of the low-entropy steps shows that
    something new is still tried.
    """
    entropy = curves.curve(tables.series, "entropy")
    found = curves.shift(entropy)
    if found is None or found.start <= 0:
        return NOTHING
    left = found.end / found.start
    says = (
        f"entropy went from {found.start:.2g} (first window) to {found.end:.2g} (last window), {left:.0%} of its "
        "initial level"
    )
    gone = found.z < 0 and left <= _ENTROPY_LEFT and len(entropy) >= LINES_TO_JUDGE
    onset = found.onset if gone else None
    evidence = (Evidence("entropy_left", left, 1.0, _ENTROPY_LEFT, onset, says),)
    if not gone or _needs_no_entropy(curves.curve(tables.series, "reward"), found.onset):
        return Outcome(evidence)
    return Outcome(evidence, "entropy_collapsed", found.onset, found.onset)


def _needs_no_entropy(reward: pd.Series, onset: int) -> bool:
    """Return whether the reward is at its maximum, or still rises in the later half of the steps since ``onset``."""
    if reward.empty:
        return False
    later = reward[reward.index >= (onset + int(reward.index[-1])) / 2]
    if at_ceiling(reward, reward.iloc[-curves.window(len(reward)) :] if is_share(reward) else later):
        return True
    change = curves.change(later)
    return change is not None and change.z >= _STILL_RISES


def reward_collapsed(tables: Tables) -> Outcome:
    """Detect a reward that fell below half of its best, or ends well below its initial level."""
    reward = curves.curve(tables.series, "reward")
    found = curves.collapse(reward)
    if found is None:
        return _fall(reward)
    says = (
        f"reward fell from {found.best:.2f} (best window) to {found.end:.2f} (last window), below half of its best, "
        f"around step {found.onset} (z {found.z:.0f})"
    )
    if len(reward) < _LINES_OF_COLLAPSE:
        return _noted(found.end, found.best, f"{says}; {len(reward)} logged lines are too few to judge")
    evidence = (Evidence("reward", found.end, found.best, found.threshold, found.onset, says),)
    return Outcome(evidence, "reward_collapsed", found.onset, found.onset)


def _noted(value: float, before: float, says: str) -> Outcome:
    return Outcome((Evidence("reward", value, before, None, None, says),))


def _fall(reward: pd.Series) -> Outcome:
    """Detect a relevant fall of less than half: training makes the policy worse."""
    found = curves.change(reward)
    if found is None or found.z > -RISE:
        return NOTHING
    onset = curves.changepoint(reward)
    says = (
        f"reward fell from {found.start:.2f} (first window) to {found.end:.2f} (last window), around step {onset}, "
        f"z {found.z:.0f}"
    )
    floor = min(0.0, float(reward.rolling(curves.window(len(reward))).mean().min()))
    lost = (found.start - found.end) / (found.start - floor)
    if lost <= _LOST:
        return _noted(found.end, found.start, f"{says}: {lost:.0%} of the initial level, no collapse")
    if found.z > _FALL:
        return _noted(found.end, found.start, f"{says}: flat curves sometimes fall this far by chance")
    if found.lines < LINES_TO_JUDGE:
        return _noted(found.end, found.start, f"{says}; {found.lines} logged lines are too few to judge")
    threshold = found.start - _LOST * (found.start - floor)
    evidence = (Evidence("reward", found.end, found.start, threshold, onset, says),)
    return Outcome(evidence, "reward_collapsed", onset, onset)
