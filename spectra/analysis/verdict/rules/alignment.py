"""Where the update lies in the base's spectrum: a fact beside its null, a fault only far out and without learning."""

from spectra.analysis.verdict.alignment_vs_chance import locate
from spectra.analysis.verdict.findings import Evidence
from spectra.analysis.verdict.rules.learning import learns
from spectra.analysis.verdict.rules.outcome import NOTHING, Outcome, lasting, shares
from spectra.runs.tables import Tables

_FRACTION = 0.1
# Half of the energy in the first tenth of the base on both sides at once, where chance puts 1 %. Full fine-tuning of
# the embedded base, healthy, has 0.2; PiSSA has 0.5 whether it learns or not: this is no fault of a run that learns.
_LOCKED = 0.5
# Without a reward nothing speaks for the run: only what no healthy run of ours reached counts.
_LOCKED_UNSEEN = 0.8
_MATRICES = 2 / 3


def principal_locked(tables: Tables) -> Outcome:
    """Find an update locked into the base's first directions in most matrices, and a reward that does not rise."""
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
        f"{share:.0%} of ‖ΔW‖² lies in the base's first {_FRACTION:.0%} of directions on both sides (median; chance "
        f"{expected:.1%}), over {threshold:.0%} in {part.iloc[-1]:.0%} of the matrices, and "
        + ("the reward does not rise" if learning is False else "no reward says that it learns")
    )
    evidence = (Evidence("joint_principal_share", share, expected, threshold, onset, says),)
    return Outcome(evidence, "principal_locked", onset, onset)


def location(tables: Tables) -> Outcome:
    """Say where the update lies: a fact beside its null, never a fault by itself."""
    step = tables.last_step
    places = [locate(tables, step, side, subspace) for side in ("left", "right") for subspace in ("principal", "minor")]
    return Outcome(
        tuple(
            Evidence(f"{p.side}_{p.subspace}_lift", p.lift, 1.0, None, None, p.words()) for p in places if p is not None
        )
    )


def intruders(tables: Tables) -> Outcome:
    """Say whether new leading directions appeared in the weights; without an update there are none."""
    rows = tables.drift[tables.drift["intruders"].notna()]
    if rows.empty:
        return NOTHING
    counts = rows.groupby("step")["intruders"].mean()
    now = rows[rows["step"] == counts.index[-1]]
    energy = float(now["intruder_energy"].mean())
    began = lasting(counts > 0)
    onset = None if began is None else int(counts.index[began])
    says = (
        f"{counts.iloc[-1]:.1f} of the first 10 left singular vectors of a matrix are intruders (cosine under 0.5 to "
        f"every one of the base), with {energy:.1%} of ‖W + ΔW‖²"
    )
    return Outcome((Evidence("intruders", float(counts.iloc[-1]), 0.0, None, onset, says),))
