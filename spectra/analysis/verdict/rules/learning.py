"""Whether the run learns: weights moved, there was a gradient, the reward rose."""

import pandas as pd

from spectra.analysis import curves
from spectra.analysis.verdict.findings import Evidence
from spectra.analysis.verdict.rules.outcome import NOTHING, Outcome, lasting
from spectra.runs.tables import FLOAT32_ROUNDING, Tables

# A reward that starts at this level has nothing left to learn.
CEILING = 0.95
RISE = 3.0
# Logged lines, whatever the steps between them. A rise by 7 standard errors that saturates is missed in 2 % of the logs
# of 20 lines, in 7 % of 15 and in 29 % of 12: so few lines do not separate a trend from autocorrelated noise.
LINES_TO_JUDGE = 20
# For a reward of unknown range: standard deviation relative to the largest value, below which it may be at its ceiling.
_PLATEAU_SPREAD = 0.0125
_NO_GRADIENT = 0.95
_INVISIBLE = 0.99


def still(tables: Tables) -> Outcome:
    """Detect weights that did not move at all."""
    largest = _trained(tables.modules).groupby("step")["relative_fro"].max()
    began = lasting(largest <= FLOAT32_ROUNDING)
    if began is None:
        return NOTHING
    step, size, onset = tables.last_step, float(largest.iloc[-1]), int(largest.index[began])
    says = f"no weight has moved: the largest ‖ΔW‖/‖W‖ at step {step} is {size:.1g}, within float32 rounding"
    evidence = (Evidence("relative_fro", size, 0.0, FLOAT32_ROUNDING, onset, says),)
    return Outcome(evidence, "not_learning", onset, onset)


def _trained(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows after step 0, where nothing can have moved yet; all rows if there are no others."""
    later = rows[rows["step"] > 0]
    return rows if later.empty else later


def silent(tables: Tables) -> Outcome:
    """Measure the fraction of groups without a gradient."""
    share = curves.curve(tables.series, "zero_advantage_share")
    if share.empty:
        return NOTHING
    value = float(share.mean())
    says = f"{value:.0%} of the groups had equal rewards and gave no gradient"
    evidence = (Evidence("zero_advantage_share", value, None, _NO_GRADIENT, None, says),)
    reward = curves.curve(tables.series, "reward")
    solved = at_ceiling(reward, reward)
    return Outcome(evidence, "not_learning") if value >= _NO_GRADIENT and not solved else Outcome(evidence)


def flat(tables: Tables) -> Outcome:
    """Measure whether the reward rose."""
    reward = curves.curve(tables.series, "reward")
    found = curves.change(reward)
    if found is None:
        says = f"{len(reward)} lines with a reward are logged: too few to tell whether the run learns"
        return Outcome((Evidence("reward_change", None, 0.0, None, None, says),))
    says = f"reward went from {found.start:.2f} (first window) to {found.end:.2f} (last window), z {found.z:+.1f}"
    if found.lines < LINES_TO_JUDGE:
        says += f"; {found.lines} logged lines are too few to judge"
    elif learns(tables) is None:
        says += "; it stays at the largest value seen, which may be its ceiling (unknown)"
    evidence = (Evidence("reward_change", found.end - found.start, 0.0, None, None, says),)
    # A run whose reward fell, however little, must not be advised to learn faster.
    return Outcome(evidence, "not_learning") if learns(tables) is False and found.z > -RISE else Outcome(evidence)


def learns(tables: Tables) -> bool | None:
    """Return whether the reward rose, or was at its maximum already.

    None if too little is logged to tell, or if the reward may be at an unknown ceiling.
    """
    reward = curves.curve(tables.series, "reward")
    found = curves.change(reward)
    if found is None:
        return None
    if found.z >= RISE or (is_share(reward) and found.start >= CEILING):
        return True
    return None if found.lines < LINES_TO_JUDGE or at_ceiling(reward, reward) else False


def at_ceiling(reward: pd.Series, part: pd.Series) -> bool:
    """Return whether part of a reward curve is at the maximum reward.

    An unknown maximum is taken to be the largest value seen, if the part stays there nearly without spread: batches
    that are not solved differ in how many answers are right.
    """
    if part.empty:
        return False
    level, largest = float(part.mean()), float(reward.max())
    if is_share(reward):
        return level >= CEILING
    return level >= CEILING * largest > 0 and float(part.std(ddof=0)) <= _PLATEAU_SPREAD * largest


def is_share(reward: pd.Series) -> bool:
    """Return whether rewards lie between 0 and 1, so that the maximum is known to be 1."""
    return not reward.empty and float(reward.min()) >= 0 and float(reward.max()) <= 1


def invisible(tables: Tables) -> Outcome:
    """Report an update that changes hardly any bfloat16 weight: a policy kept in bfloat16 does not see it."""
    rows = tables.coordinates
    if rows.empty:
        return NOTHING
    kept = _trained(rows).groupby("step")["unchanged_bf16"].median()
    now = rows[rows["step"] == rows["step"].max()]
    unchanged, expected = float(now["unchanged_bf16"].median()), float(now["expected_unchanged_bf16"].median())
    if not unchanged >= _INVISIBLE:
        return NOTHING
    says = (
        f"{unchanged:.1%} of the entries keep their bfloat16 value (noise of the same size: {expected:.1%}): a policy "
        "stored or sent in bfloat16 hardly changes"
    )
    onset = int(kept.index[lasting(kept >= _INVISIBLE) or 0])
    return Outcome((Evidence("unchanged_bf16", unchanged, expected, _INVISIBLE, onset, says),))
