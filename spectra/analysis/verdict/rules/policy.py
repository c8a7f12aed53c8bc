"""What the training log says of the policy: entropy that is gone, reward that fell."""

import pandas as pd

from spectra.analysis import curves
from spectra.analysis.verdict.findings import Evidence
from spectra.analysis.verdict.rules.learning import LINES_TO_JUDGE, RISE, at_ceiling, is_share
from spectra.analysis.verdict.rules.outcome import NOTHING, Outcome
from spectra.runs.tables import Tables

# RLVR spends three quarters of its entropy and goes on learning; with a tenth left nothing new is tried.
_ENTROPY_LEFT = 0.1
# A plateau is taken for a rise in 0.2 % of the runs at 4, in 1 % at 3.
_STILL_RISES = 4.0
# A fall is mentioned where a rise would be told, and a collapse from here on: flat curves of 40 to 240 lines fall by 3
# in 0.5 % of the runs, by 4 in 0.06 %.
_FALL = -4.0
# Of the start, above the floor. Whatever ends within 5 % of its ceiling has lost less.
_LOST = 0.1
# Lines of a log that show a fall under half of the best: one by 4.5 standard errors stands out of fewer than a trend.
_LINES_OF_COLLAPSE = 12


def entropy_collapsed(tables: Tables) -> Outcome:
    """Find an entropy that fell under a tenth of its start for good, while there was still something to learn.

    A task that is solved needs no entropy, and a reward that still rises in the later half of the low entropy shows
    that something new is still tried.
    """
    entropy = curves.curve(tables.series, "entropy")
    found = curves.shift(entropy)
    if found is None or found.start <= 0:
        return NOTHING
    left = found.end / found.start
    says = (
        f"entropy went from {found.start:.2g} (first window) to {found.end:.2g} (last window), {left:.0%} of its start"
    )
    gone = found.z < 0 and left <= _ENTROPY_LEFT and len(entropy) >= LINES_TO_JUDGE
    onset = found.onset if gone else None
    evidence = (Evidence("entropy_left", left, 1.0, _ENTROPY_LEFT, onset, says),)
    if not gone or _needs_none(curves.curve(tables.series, "reward"), found.onset):
        return Outcome(evidence)
    return Outcome(evidence, "entropy_collapsed", found.onset, found.onset)


def _needs_none(reward: pd.Series, onset: int) -> bool:
    """Return whether the reward is at its ceiling, or still rises in the later half of the steps since ``onset``."""
    if reward.empty:
        return False
    later = reward[reward.index >= (onset + int(reward.index[-1])) / 2]
    if at_ceiling(reward, reward.iloc[-curves.window(len(reward)) :] if is_share(reward) else later):
        return True
    change = curves.change(later)
    return change is not None and change.z >= _STILL_RISES


def reward_collapsed(tables: Tables) -> Outcome:
    """Find a reward that fell under half of its best, or that ends well below where it began."""
    reward = curves.curve(tables.series, "reward")
    found = curves.collapse(reward)
    if found is None:
        return _fall(reward)
    says = (
        f"reward fell from {found.best:.2f} (best window) to {found.end:.2f} (last window), under half of its best, "
        f"about step {found.onset} (z {found.z:.0f})"
    )
    if len(reward) < _LINES_OF_COLLAPSE:
        return _mentioned(found.end, found.best, f"{says}; {len(reward)} logged lines are too few to judge by")
    evidence = (Evidence("reward", found.end, found.best, found.threshold, found.onset, says),)
    return Outcome(evidence, "reward_collapsed", found.onset, found.onset)


def _mentioned(value: float, before: float, says: str) -> Outcome:
    return Outcome((Evidence("reward", value, before, None, None, says),))


def _fall(reward: pd.Series) -> Outcome:
    """Find a fall short of half, and large enough to matter: training makes the policy worse."""
    found = curves.change(reward)
    if found is None or found.z > -RISE:
        return NOTHING
    onset = curves.changepoint(reward)
    says = (
        f"reward fell from {found.start:.2f} (first window) to {found.end:.2f} (last window), about step {onset}, "
        f"z {found.z:.0f}"
    )
    floor = min(0.0, float(reward.rolling(curves.window(len(reward))).mean().min()))
    lost = (found.start - found.end) / (found.start - floor)
    if lost <= _LOST:
        return _mentioned(found.end, found.start, f"{says}: {lost:.0%} of it, no collapse")
    if found.z > _FALL:
        return _mentioned(found.end, found.start, f"{says}: a flat curve falls so far now and then")
    if found.lines < LINES_TO_JUDGE:
        return _mentioned(found.end, found.start, f"{says}; {found.lines} logged lines are too few to judge by")
    threshold = found.start - _LOST * (found.start - floor)
    evidence = (Evidence("reward", found.end, found.start, threshold, onset, says),)
    return Outcome(evidence, "reward_collapsed", onset, onset)
