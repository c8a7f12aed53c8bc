"""Whether the run learns: did weights move, was there a gradient, did the reward rise."""

import pandas as pd

from spectra.analysis import curves
from spectra.analysis.findings import Evidence
from spectra.analysis.rules.outcome import NOTHING, Outcome
from spectra.runs.tables import FLOAT32_ROUNDING, Tables

# A reward that starts here has nothing left to learn.
CEILING = 0.95
RISE = 3.0
STEPS_TO_JUDGE = 20
_NO_GRADIENT = 0.95
_INVISIBLE = 0.99


def still(tables: Tables) -> Outcome:
    """Find weights that did not move at all."""
    step = tables.last_step
    largest = float(tables.modules[tables.modules["step"] == step]["relative_fro"].max())
    if not largest <= FLOAT32_ROUNDING:
        return NOTHING
    says = f"no weight has moved: the largest ‖ΔW‖/‖W‖ at step {step} is {largest:.1g}, within float32 rounding"
    evidence = (Evidence("relative_fro", largest, 0.0, FLOAT32_ROUNDING, step, says),)
    return Outcome(evidence, "not_learning", step, step)


def silent(tables: Tables) -> Outcome:
    """Measure how many groups gave a gradient."""
    share = curves.curve(tables.series, "zero_advantage_share")
    if share.empty:
        return NOTHING
    value = float(share.mean())
    says = f"{value:.0%} of the groups had equal rewards and gave no gradient"
    evidence = (Evidence("zero_advantage_share", value, None, _NO_GRADIENT, None, says),)
    reward = curves.curve(tables.series, "reward")
    solved = is_share(reward) and float(reward.mean()) >= CEILING
    return Outcome(evidence, "not_learning") if value >= _NO_GRADIENT and not solved else Outcome(evidence)


def flat(tables: Tables) -> Outcome:
    """Measure whether the reward rose."""
    reward = curves.curve(tables.series, "reward")
    found = curves.change(reward)
    if found is None:
        says = f"{len(reward)} steps with a reward are logged: too few to say whether it learns"
        return Outcome((Evidence("reward_change", None, 0.0, None, None, says),))
    says = f"reward went from {found.start:.2f} (first window) to {found.end:.2f} (last window), z {found.z:+.1f}"
    if found.steps < STEPS_TO_JUDGE:
        says += f"; {found.steps} steps are too few to judge by"
    evidence = (Evidence("reward_change", found.end - found.start, 0.0, None, None, says),)
    return Outcome(evidence, "not_learning") if learns(tables) is False else Outcome(evidence)


def learns(tables: Tables) -> bool | None:
    """Return whether the reward rose, or had nothing left to rise to; None where too little is logged to say."""
    reward = curves.curve(tables.series, "reward")
    found = curves.change(reward)
    if found is None:
        return None
    if found.z >= RISE or (is_share(reward) and found.start >= CEILING):
        return True
    return False if found.steps >= STEPS_TO_JUDGE else None


def is_share(reward: pd.Series) -> bool:
    """Return whether rewards lie between 0 and 1, so that 1 is known to be the most."""
    return not reward.empty and float(reward.min()) >= 0 and float(reward.max()) <= 1


def invisible(tables: Tables) -> Outcome:
    """Mention an update that hardly a bfloat16 weight shows: where the policy is kept in bfloat16 it does not act."""
    rows = tables.coordinates
    if rows.empty:
        return NOTHING
    now = rows[rows["step"] == rows["step"].max()]
    unchanged, expected = float(now["unchanged_bf16"].median()), float(now["expected_unchanged_bf16"].median())
    if not unchanged >= _INVISIBLE:
        return NOTHING
    says = (
        f"{unchanged:.1%} of the entries keep their bfloat16 value (noise of the same size: {expected:.1%}): a policy "
        "that is kept or sent in bfloat16 hardly changes"
    )
    return Outcome((Evidence("unchanged_bf16", unchanged, expected, _INVISIBLE, int(now["step"].iloc[0]), says),))
