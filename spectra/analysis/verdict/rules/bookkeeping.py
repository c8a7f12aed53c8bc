"""Bookkeeping faults that show in the tables: ΔW against the wrong base, and frozen weights that moved.

The files show more, and exactly: see ``spectra.analysis.doctor``. These rules serve runs of which only checkpoints are
left.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from spectra.analysis import curves
from spectra.analysis.verdict.findings import Evidence
from spectra.analysis.verdict.rules.outcome import NOTHING, Outcome, lasting, matrices, shares
from spectra.runs.tables import FLOAT32_ROUNDING, Tables

# Storing a base in bfloat16 moves it by 0.2 %; a larger ΔW before the first step means another base.
_START_OFFSET = 0.01
# RLVR moves a matrix by about 0.1 % of its norm; an initialization counted twice or drawn again, by 3 to 30 %.
_OFFSET = 0.02
# Energy inside one block of base directions on both sides: PiSSA that was trained keeps at most half of it there.
_LOCKED = 0.8
# One snapshot cannot show that an update is constant. A leftover initialization fills its block, except for training.
_SHARP = 0.95
_LOCKED_FRACTION = 0.2
_LOCKED_MATRICES = 0.5
# An offset is present from the first snapshot on, with constant size and direction.
_CONSTANT = 1.25
_SAME_DIRECTION = 0.9
# The trained policy differs from the saved adapter by at least this fraction of ΔW.
_DRIFT = 0.1
_NEAR_ROUNDING = 3.0


def wrong_base(tables: Tables) -> Outcome:
    """Detect a ΔW that contains part of the base: in one initialized block, before training or constant through it.

    A method whose initialization changes the base (PiSSA, MiLoRA) leaves its block in ΔW, twice or not at all, when the
    trained weights are combined with the pristine base. Training does not look like that: its update grows, and fills
    no block exactly. An update before training that fills no block is one that training continued, such as an SFT
    adapter.
    """
    rows = matrices(tables)
    steps = sorted(tables.modules["step"].unique())
    if rows.empty:
        return NOTHING
    sizes = rows.groupby("step")["relative_fro"].median()
    if len(steps) > 1 and steps[0] == 0 and sizes.get(0, 0.0) >= _START_OFFSET:
        return _before_training(tables, float(sizes[0]))
    return _offset(tables, rows, sizes)


def _before_training(tables: Tables, size: float) -> Outcome:
    """Distinguish an initialization inside ΔW at step 0 from an update that training started with."""
    block = _block(tables, 0)
    if block is None or not block.holds(_LOCKED):
        says = (
            f"at step 0 ‖ΔW‖/‖W‖ is already {size:.2g}, not within one block of the base: training began from an "
            "update, such as an adapter that it continues, or from another base; fractions and ranks describe both "
            "together"
        )
        return Outcome((Evidence("relative_fro", size, 0.0, _START_OFFSET, 0, says),))
    says = f"at step 0 ‖ΔW‖/‖W‖ is already {size:.2g}, {block.describe()}"
    return Outcome((Evidence("joint_share", block.share, block.expected, _LOCKED, 0, says),), "wrong_base", 0, 0)


def _offset(tables: Tables, rows: pd.DataFrame, sizes: pd.Series) -> Outcome:
    first, last = int(sizes.index[0]), int(sizes.index[-1])
    size = float(sizes.iloc[0])
    block = _block(tables, last)
    if size < _OFFSET or block is None or not block.holds(_LOCKED):
        return NOTHING
    if first == last:
        return _single(size, block)
    if not _is_constant(tables, rows, first, last):
        return NOTHING
    says = (
        f"‖ΔW‖/‖W‖ is {size:.2g} at the first snapshot (step {first}) and hardly changes after it, {block.describe()}"
    )
    fact = Evidence("joint_share", block.share, block.expected, _LOCKED, first, says)
    return Outcome((fact,), "wrong_base", first, first)


def _single(size: float, block: "_Block") -> Outcome:
    """Judge the only snapshot with an update: a fault if the block holds nearly all of it, else a note."""
    sharp = block.holds(_SHARP)
    says = f"‖ΔW‖/‖W‖ is {size:.2g} in the only snapshot, {block.describe()}"
    says += "" if sharp else "; an update trained into that block would look the same"
    fact = Evidence("joint_share", block.share, block.expected, _SHARP, None, says)
    return Outcome((fact,), "wrong_base" if sharp else None)


@dataclass(frozen=True)
class _Block:
    """Per matrix, the row of the subspace of at most a fifth that holds most of ΔW on both sides."""

    rows: pd.DataFrame

    @property
    def share(self) -> float:
        return float(self.rows["share"].median())

    @property
    def expected(self) -> float:
        return float(self.rows["expected"].median())

    def holds(self, share: float) -> bool:
        """Return whether it holds at least this fraction in enough matrices."""
        return float((self.rows["share"] >= share).mean()) >= _LOCKED_MATRICES

    def describe(self) -> str:
        name = self.rows["subspace"].mode().iloc[0]
        return (
            f"with {self.share:.0%} of its energy in one {name} block of the base on both sides (chance "
            f"{self.expected:.1%}): an initialization that was left in the weights, or subtracted twice"
        )


def _is_constant(tables: Tables, rows: pd.DataFrame, first: int, last: int) -> bool:
    """Return whether ΔW kept its size and direction between two snapshots."""
    ends = rows[rows["step"].isin((first, last))].pivot(index="module", columns="step", values="delta_fro").dropna()
    growth = float((ends[last] / ends[first]).median()) if len(ends) else np.nan
    if not 1 / _CONSTANT <= growth <= _CONSTANT:
        return False
    cosines = tables.trajectory[tables.trajectory["step"] == first]["cos_final"].dropna()
    return cosines.empty or float(cosines.median()) >= _SAME_DIRECTION


def _block(tables: Tables, step: int) -> _Block | None:
    rows = shares(tables, "joint")
    rows = rows[(rows["step"] == step) & (rows["fraction"] <= _LOCKED_FRACTION) & rows["share"].notna()]
    return _Block(rows.loc[rows.groupby("module")["share"].idxmax()]) if len(rows) else None


def merge_drift(tables: Tables) -> Outcome:
    """Compare how far the frozen weights moved, as logged by the trainer, with the size of the saved update."""
    drift = curves.curve(tables.series, "frozen_drift")
    moved = _relative_update(tables)
    if drift.empty or moved.empty:
        return NOTHING
    nearest = np.abs(np.subtract.outer(drift.index.to_numpy(), moved.index.to_numpy())).argmin(axis=1)
    ratio = pd.Series(drift.to_numpy() / moved.to_numpy()[nearest], index=drift.index)
    began = lasting((ratio >= _DRIFT) & (drift > FLOAT32_ROUNDING))
    value = float(ratio.iloc[-1])
    says = f"the frozen weights moved by {drift.iloc[-1]:.2g} of their norm, {value:.2g} times the saved update"
    if began is None:
        return Outcome((Evidence("frozen_drift", value, 0.0, _DRIFT, None, says),))
    onset = int(ratio.index[began])
    return Outcome((Evidence("frozen_drift", value, 0.0, _DRIFT, onset, says),), "merge_drift", onset, onset)


def _relative_update(tables: Tables) -> pd.Series:
    """Return ‖ΔW‖/‖W‖ over all matrices together, per step."""
    rows = matrices(tables)
    sums = (rows[["delta_fro", "weight_fro"]] ** 2).groupby(rows["step"]).sum()
    return (sums["delta_fro"] / sums["weight_fro"]).pow(0.5)


def rounding(tables: Tables) -> Outcome:
    """Warn if ΔW is no larger than the rounding error of half-precision storage."""
    rows = matrices(tables)
    rows = rows[(rows["step"] == tables.last_step) & (rows["rounding_fro"] > 0)]
    if rows.empty:
        return NOTHING
    times = float((rows["delta_fro"] / rows["rounding_fro"]).median())
    if times >= _NEAR_ROUNDING:
        return NOTHING
    says = (
        f"ΔW is {times:.2g} × the rounding floor of half-precision storage (median over {len(rows)} matrices): "
        "read the adapter, or float32 weights, instead"
    )
    return Outcome((Evidence("rounding_floor", times, 1.0, _NEAR_ROUNDING, None, says),))
