"""Trajectory of the snapshots of one run: each against the last, against the first, and against a straight line.

Updates are computed on demand: two dense matrices are held for the comparisons and three for the line. Factored updates
of small total rank are never formed as dense matrices.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from spectra.analysis.tables.columns import Row
from spectra.linalg.decompositions.basis import Factors
from spectra.linalg.measures.leading import (
    cosine,
    factor_spaces,
    first,
    gram,
    inner_product,
    is_factored,
    leading,
    nonzero,
    shared_spaces,
    subspace_overlap,
)
from spectra.linalg.measures.straightness import StreamedStraightness, random_walk_straightness, straightness
from spectra.linalg.operators.basic import Operator

# Directions a side that are followed, as in arXiv 2606.07082.
DIRECTIONS = 16

Updates = Mapping[int, Callable[[], Operator]]


@dataclass(frozen=True)
class Compact:
    """One update, reduced to what comparisons need.

    Attributes
    ----------
    shape
        (O, I).
    leading
        Its leading singular triplets, at most ``DIRECTIONS`` and its numerical rank: none for ΔW = 0.
    whole
        Its whole SVD where it is factored, None where it has full rank.
    dense
        The matrix where it is not factored, None where it is.
    """

    shape: tuple[int, int]
    leading: Factors
    whole: Factors | None
    dense: Tensor | None

    @classmethod
    def of(cls, update: Operator) -> "Compact":
        """Decompose an update."""
        if is_factored(update):
            whole = nonzero(update.svd())
            return cls(update.shape, first(whole, DIRECTIONS), whole, None)
        dense = update.dense()
        return cls(update.shape, leading(dense, DIRECTIONS), None, dense)

    def matrix(self) -> Tensor:
        """Return the O × I matrix."""
        if self.whole is None:
            assert self.dense is not None  # one of the two is there
            return self.dense
        return (self.whole.u * self.whole.s) @ self.whole.v.T

    def inner(self, other: "Compact") -> float:
        """Return ⟨ΔW, ΔW'⟩, from factors where both have them."""
        if self.whole is not None and other.whole is not None:
            return inner_product(self.whole, other.whole)
        return float(torch.dot(self.matrix().reshape(-1), other.matrix().reshape(-1)))


@dataclass(frozen=True)
class _InitialSpaces:
    """The subspaces of the initial factors, None for a side without one."""

    left: Tensor | None
    right: Tensor | None


def trajectory_rows(updates: Updates) -> list[Row]:
    """Return the rows of ``trajectory`` of one module, one per snapshot with finite ΔW, by step.

    - ``cos_final``, ``subspace_final_*`` and ``rank1_cos_final`` compare ΔW_t with the last finite snapshot. Their
      null: a random walk has a cosine of √(t/T); random spaces of K directions overlap by K/dim.
    - ``linearity`` is the R² of :func:`spectra.linalg.measures.straightness.straightness` over the snapshots s ≤ t, NaN
      for the first.
    - ``*_at_start`` is the share ‖V(t)ᵀP₀‖²/R of a side's singular space that lies in the space P₀ of the initial
      factors of the run; its null is R₀/dim. LoRA's A is random and moves little early on: a right side near 1 shows
      the random initialization, not learning. P₀ is that of the first snapshot that has any, whose own row is NaN; so
      is a side that starts at zero (LoRA's B where step 0 is saved), and every update of full rank.

    Where ΔW_t = 0 all but ``linearity`` is NaN.

    Parameters
    ----------
    updates
        For each step, a function that makes ΔW_t. Each is called a few times.
    """
    final = next((step for step in sorted(updates, reverse=True) if updates[step]().is_finite()), None)
    if final is None:
        return []
    known = _factored(updates)
    last = known[final] if known else Compact.of(updates[final]())
    rows: list[Row] = []
    start: _InitialSpaces | None = None
    for step in sorted(updates):
        update = updates[step]()
        if update.is_finite():
            now = known[step] if known else Compact.of(update)
            rows.append({"step": step, **_against_last(now, last), **_at_start(now, start)})
            start = start or _initial_spaces(update)
    del update, now, last  # dense matrices that the line has no use for
    return _with_linearity(rows, updates, known)


def _factored(updates: Updates) -> dict[int, Compact]:
    """Return all finite updates in factors; empty where one has full rank, or dense arithmetic is cheaper.

    T updates of rank R cost (T·R)²(O + I) operations in factors and 2·T·R·O·I dense; T·R(O + I) numbers and O·I.
    """
    found: dict[int, Compact] = {}
    ranks = 0
    for step in sorted(updates):
        update = updates[step]()
        rows, columns = update.shape
        ranks += update.rank_bound
        if not is_factored(update) or ranks * (rows + columns) > 2 * rows * columns:
            return {}
        if update.is_finite():
            found[step] = Compact.of(update)
    return found


def _against_last(now: Compact, last: Compact) -> Row:
    left, right, count = shared_spaces(now.leading, last.leading)
    expected = [count / dim if count else math.nan for dim in now.shape]
    return {
        "cos_final": cosine(now.inner(last), math.sqrt(now.inner(now)) * math.sqrt(last.inner(last))),
        "subspace_final_left": left,
        "subspace_final_right": right,
        "expected_subspace_left": expected[0],
        "expected_subspace_right": expected[1],
        "rank1_cos_final": _rank1_cosine(now.leading, last.leading),
    }


def _rank1_cosine(x: Factors, y: Factors) -> float:
    """Return |u₁·u₁'|·|v₁·v₁'|, the cosine of the two rank-1 parts without its sign."""
    if not len(x.s) or not len(y.s):
        return math.nan
    return abs(float(x.u[:, 0] @ y.u[:, 0])) * abs(float(x.v[:, 0] @ y.v[:, 0]))


def _initial_spaces(update: Operator) -> _InitialSpaces | None:
    """Return the spaces of an update's factors, None where it has none, or full rank: its space is the whole space."""
    left, right = factor_spaces(update) if is_factored(update) else (None, None)
    return None if left is None and right is None else _InitialSpaces(left, right)


def _at_start(now: Compact, start: _InitialSpaces | None) -> Row:
    row: Row = {}
    for side in ("left", "right"):
        space = None if start is None else getattr(start, side)
        share = expected = math.nan
        if space is not None and now.whole is not None and len(now.whole.s):
            share = subspace_overlap(now.whole.u if side == "left" else now.whole.v, space)
            expected = space.shape[1] / space.shape[0]
        row |= {f"{side}_at_start": share, f"expected_{side}_at_start": expected}
    return row


def _with_linearity(rows: list[Row], updates: Updates, known: Mapping[int, Compact]) -> list[Row]:
    """Add R² up to each step: from the Gram matrix of factors, or from running sums of dense updates."""
    steps = [row["step"] for row in rows]
    if known:
        inner = gram([whole for step in steps if (whole := known[step].whole) is not None])
        found = [straightness(steps[:count], inner[:count, :count]) for count in range(1, len(steps) + 1)]
    else:
        path = StreamedStraightness()
        found = [path.add(step, updates[step]().dense()) for step in steps]
    for count, (row, r2) in enumerate(zip(rows, found, strict=True), start=1):
        row |= {"linearity": r2, "expected_linearity": random_walk_straightness(steps[:count])}
    return rows
