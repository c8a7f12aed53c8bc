"""Alignment of the update with the base spectrum: evidence with its null; a fault only if extreme without learning."""

from spectra.analysis.verdict.alignment_vs_chance import locate
from spectra.analysis.verdict.findings import Evidence
from spectra.analysis.verdict.rules.learning import learns
from spectra.analysis.verdict.rules.outcome import NOTHING, Outcome, lasting, shares
from spectra.runs.tables import Tables

_FRACTION = 0.1
# Half of the energy in the first tenth of the base directions on both sides at once, where chance gives 1 %. A healthy
# full fine-tuning of the embedded base has 0.2; PiSSA has 0.5 whether it learns or not: no fault in a run that learns.
_LOCKED = 0.5
# Without a reward there is no evidence of learning: only values that none of our healthy runs reached count.
_LOCKED_UNSEEN = 0.8
_MATRICES = 2 / 3


def principal_locked(tables: Tables) -> Outcome:
    """Detect an update locked into the base's leading directions in most matrices while the reward does not rise."""
    rows = shares(tables, "joint")
    rows = rows[(rows["subspace"] == "principal") & (rows["fraction"] == _FRACTION)]
    learning = learns(tables)
    if rows.empty or learning:
        return NOTHING
    threshold = _LOCKED if learning is False else _LOCKED_UNSEEN
    part = (rows["share"] >= threshold).groupby(rows["step"]).mean()
    began = lasting(part >= _MATRICES)
    if began is None or int(part.index[-1]) != tables.last_step:
        return NOTHING
    now = rows[rows["step"] == tables.last_step]
    share, expected = float(now["share"].median()), float(now["expected"].median())
    onset = int(part.index[began])
    says = (
        f"{share:.0%} of ‖ΔW‖² lies in the first {_FRACTION:.0%} of base directions on both sides (median; chance "
        f"{expected:.1%}), over {threshold:.0%} in {part.iloc[-1]:.0%} of the matrices, and "
        + ("the reward does not rise" if learning is False else "no reward shows that the run learns")
    )
    evidence = (Evidence("joint_principal_share", share, expected, threshold, onset, says),)
    return Outcome(evidence, "principal_locked", onset, onset)


def location(tables: Tables) -> Outcome:
    """Report the alignment of the update with its null; never a fault by itself."""
    step = tables.last_step
    alignments = [
        locate(tables, step, side, subspace) for side in ("left", "right") for subspace in ("principal", "minor")
    ]
    return Outcome(
        tuple(
            Evidence(f"{p.side}_{p.subspace}_lift", p.lift, 1.0, None, None, p.describe())
            for p in alignments
            if p is not None
        )
    )


def intruders(tables: Tables) -> Outcome:
    """Report new leading directions in the weights (intruder dimensions); without an update there are none."""
    rows = tables.drift[tables.drift["intruders"].notna()]
    if rows.empty:
        return NOTHING
    counts = rows.groupby("step")["intruders"].mean()
    now = rows[rows["step"] == counts.index[-1]]
    energy = float(now["intruder_energy"].mean())
    began = lasting(counts > 0)
    onset = None if began is None else int(counts.index[began])
    says = (
        f"{counts.iloc[-1]:.1f} of the first 10 left singular vectors per matrix are intruders (cosine below 0.5 to "
        f"every one of the base), with {energy:.1%} of ‖W + ΔW‖²"
    )
    return Outcome((Evidence("intruders", float(counts.iloc[-1]), 0.0, None, onset, says),))
