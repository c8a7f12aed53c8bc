"""Entries of a matrix that change visibly in bfloat16, their positions, and the null of noise of the same norm."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from spectra.analysis.tables.columns import Row
from spectra.linalg.decompositions.basis import Basis
from spectra.linalg.measures.gini import SquaredNorms, expected_gini, gini
from spectra.linalg.measures.masks import FRACTION, block_rows, low_magnitude_mask, principal_mask, ratio
from spectra.linalg.measures.rounding import boundary_distances, flipped_visibility, gaussian_visibility, round_to
from spectra.linalg.nulls.counts import CountNull, JaccardNull
from spectra.linalg.nulls.haar_moments import Null
from spectra.linalg.operators.basic import Dense, LowRank, Operator

RELATIVE = 1e-3
ABSOLUTE = 1e-5

# An entry's group: 1 where it is principal, plus 2 where it is of low magnitude. Masks are unions of groups.
_GROUPS = 4
MASKS = {
    "principal": (0.0, 1.0, 0.0, 1.0),
    "low_magnitude": (0.0, 0.0, 1.0, 1.0),
    "principal_not_low": (0.0, 1.0, 0.0, 0.0),
}


@dataclass(frozen=True)
class _Seen:
    """Counts from one pass over an update.

    Attributes
    ----------
    visible
        Visible entries in each group.
    relative, absolute
        Entries that moved by more than the tolerance.
    norms
        Squared norms of the update's rows and columns.
    """

    visible: Float64[Tensor, " g"]
    relative: int
    absolute: int
    norms: SquaredNorms


class BaseCoordinates:
    """The entries of a base matrix: their bfloat16 values and masks, made once and used by every snapshot.

    Parameters
    ----------
    weight
        The base weight W, O × I.
    basis
        Its singular basis.
    fraction
        Share of the entries in the principal and in the low-magnitude mask, and k/q of the former.
    """

    def __init__(self, weight: Float64[Tensor, "o i"], basis: Basis, fraction: float = FRACTION) -> None:
        self.weight = weight
        self.basis = basis
        self.fraction = fraction

    def metrics(self, dense: Float64[Tensor, "o i"]) -> dict[str, float]:
        """Return what a dense update shows, without nulls: for samples of a null.

        Returns
        -------
        dict
            unchanged_bf16, unchanged_relative, unchanged_atol; overlap_principal, overlap_low_magnitude,
            overlap_principal_not_low (NaN where nothing is visible); row_gini, column_gini (NaN for zero).
        """
        seen = self._see(Dense(dense))
        return {**self._unchanged(seen), **self._overlaps(seen), **_ginis(seen)}

    def row(self, update: Operator, norm: float | None = None) -> Row:
        """Return the columns of table ``coordinates`` for one finite update.

        Where ΔW = 0 the unchanged share is 1, coverage 0, and what is undefined is NaN. Where chance gives counts too
        small to be near normal, z is NaN. The entries of a low-rank update are neither independent nor Gaussian: its z
        is far from 0 for random factors too, and chance at its rank is in table ``nulls``.

        Parameters
        ----------
        update
            ΔW.
        norm
            ‖ΔW‖_F where it is known, 0 for an update that is nothing but rounding; summed from the entries otherwise.
        """
        rows, columns = self.weight.shape
        if norm == 0:
            update = LowRank(self.weight.new_zeros(rows, 0), self.weight.new_zeros(0, columns))
        seen = self._see(update)
        norm = seen.norms.norm if norm is None else norm
        null = self.gaussian_null(norm)
        unchanged = self._unchanged(seen)
        return {
            **unchanged,
            "expected_unchanged_bf16": null.unchanged().mean,
            "z_unchanged_bf16": null.unchanged_z(unchanged["unchanged_bf16"]),
            **{key: value for mask in MASKS for key, value in self._mask_columns(mask, seen, null).items()},
            **_ginis(seen),
            "expected_row_gini": expected_gini(rows, columns),
            "expected_column_gini": expected_gini(columns, rows),
        }

    def visible(self, update: Operator) -> Bool[Tensor, "o i"]:
        """Return where bfloat16(W + ΔW) differs from bfloat16(W)."""
        out = torch.empty(self.weight.shape, dtype=torch.bool, device=self.weight.device)
        for chosen in self._slices():
            before, after = self._cast_rows(chosen, update.rows(chosen.start, chosen.stop))
            torch.ne(before, after, out=out[chosen])
        return out

    def gaussian_null(self, norm: float) -> CountNull:
        """Return the visible counts of i.i.d. Gaussian noise of this Frobenius norm."""
        sums = self._zeros(3)
        if norm > 0:
            sd = norm / math.sqrt(self.weight.numel())
            for below, above, groups, counts in self._intervals():
                p, slope = gaussian_visibility(below, above, sd)
                _add(sums, groups, (counts * p, counts * p * (1 - p), counts * slope))
        return CountNull.of(self._sizes, sums[0], sums[1], sums[2])

    def sign_flipped_null(self, update: Operator) -> CountNull:
        """Return the visible counts of the update's own sizes |ΔW_ij| with random signs."""
        return self._flipped_null(update.rows(chosen.start, chosen.stop) for chosen in self._slices())

    def constant_null(self, norm: float) -> CountNull:
        """Return the visible counts of ±c with random signs, c the size that has this Frobenius norm."""
        size = norm / math.sqrt(self.weight.numel())
        return self._flipped_null(size for _ in self._slices())

    def jaccard_null(self, first_norm: float, second_norm: float) -> Null:
        """Return the null of the Jaccard index of the visible masks of two independent Gaussian updates.

        Both are noise through the same cast: they meet where the weights are small, more often than masks that are
        placed anywhere (:func:`spectra.linalg.measures.masks.expected_jaccard`). NaN where neither update is expected
        to show.
        """
        if not (first_norm > 0 and second_norm > 0):
            return Null(math.nan, math.nan)
        root = math.sqrt(self.weight.numel())
        meeting = JaccardNull(self.weight.numel())
        for below, above, _, counts in self._intervals():
            first = gaussian_visibility(below, above, first_norm / root)
            second = gaussian_visibility(below, above, second_norm / root)
            meeting.add(first, second, counts)
        return meeting.jaccard()

    def _flipped_null(self, sizes: Iterable[Tensor | float]) -> CountNull:
        sums = self._zeros(2)
        for chosen, size in zip(self._slices(), sizes, strict=True):
            p = flipped_visibility(self.weight[chosen], size)
            _add(sums, self._groups[chosen], (p, p * (1 - p)))
        return CountNull.of(self._sizes, sums[0], sums[1])

    def _see(self, update: Operator) -> _Seen:
        norms = SquaredNorms(update.shape, update.device)
        visible, relative, absolute = self._zeros(1)[0], 0, 0
        for chosen in self._slices():
            block = update.rows(chosen.start, chosen.stop)
            norms.add(chosen.start, block)
            places, before, after = self._moved(chosen, block)
            visible += torch.bincount(self._groups[chosen].flatten()[places], minlength=_GROUPS)
            distance = (after - before).abs()
            # An entry that overflows moved, though ∞ ≤ η·∞.
            relative += int(((distance > RELATIVE * torch.maximum(before.abs(), after.abs())) | distance.isinf()).sum())
            absolute += int((distance > ABSOLUTE).sum())
        return _Seen(visible, relative, absolute, norms)

    def _moved(self, chosen: slice, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return where in some rows the bfloat16 value moves, and its values before and after, as float64."""
        near = torch.nonzero((block.abs() >= self._reach[chosen]).flatten())[:, 0]
        before = self._cast[chosen].flatten()[near].to(torch.float64)
        after = round_to(self.weight[chosen].flatten()[near] + block.flatten()[near])
        moved = after != before
        return near[moved], before[moved], after[moved]

    def _unchanged(self, seen: _Seen) -> dict[str, float]:
        entries = self.weight.numel()
        return {
            "unchanged_bf16": 1 - float(seen.visible.sum()) / entries,
            "unchanged_relative": 1 - seen.relative / entries,
            "unchanged_atol": 1 - seen.absolute / entries,
        }

    def _mask_columns(self, mask: str, seen: _Seen, null: CountNull) -> Row:
        members = self._members(mask)
        held, size, total = float(members @ seen.visible), float(members @ self._sizes), float(seen.visible.sum())
        density, overlap = size / self.weight.numel(), ratio(held, total)
        return {
            f"density_{mask}": density,
            f"overlap_{mask}": overlap,
            f"coverage_{mask}": ratio(held, size),
            f"enrichment_{mask}": ratio(overlap, density),
            f"expected_overlap_{mask}": null.overlap(members).mean,
            f"z_overlap_{mask}": null.overlap_z(members, overlap),
        }

    def _overlaps(self, seen: _Seen) -> dict[str, float]:
        total = float(seen.visible.sum())
        return {f"overlap_{mask}": ratio(float(self._members(mask) @ seen.visible), total) for mask in MASKS}

    def _members(self, mask: str) -> Tensor:
        return torch.tensor(MASKS[mask], dtype=torch.float64, device=self.weight.device)

    def _zeros(self, sums: int) -> Tensor:
        return torch.zeros(sums, _GROUPS, dtype=torch.float64, device=self.weight.device)

    def _slices(self) -> Iterator[slice]:
        rows, step = len(self.weight), block_rows(self.weight.shape[1])
        return (slice(start, min(start + step, rows)) for start in range(0, rows, step))

    def _cast_rows(self, chosen: slice, block: Tensor) -> tuple[Tensor, Tensor]:
        return self._cast[chosen].to(torch.float64), round_to(self.weight[chosen] + block)

    @cached_property
    def _cast(self) -> Tensor:
        """bfloat16(W). The values are on the grid already, so that torch's two roundings change nothing."""
        return torch.cat([round_to(self.weight[chosen]).to(torch.bfloat16) for chosen in self._slices()])

    @cached_property
    def _reach(self) -> Tensor:
        """A size of Δ, float32, that surely stays within the rounding interval of each entry: few come near it.

        The distance to the nearer end, less a part for the rounding of W + Δ and for being stored in float32.
        """
        return torch.cat([_surely_inside(self.weight[chosen]) for chosen in self._slices()])

    @cached_property
    def _groups(self) -> Tensor:
        principal = principal_mask(self.weight, self.basis, self.fraction, self.fraction).to(torch.uint8)
        return principal.add_(low_magnitude_mask(self.weight, self.fraction), alpha=2)

    @cached_property
    def _sizes(self) -> Tensor:
        return torch.bincount(self._groups.flatten(), minlength=_GROUPS).to(torch.float64)

    def _intervals(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | float]]:
        """Yield distances to both ends of the rounding intervals, with the group and the number of such entries."""
        if self._distinct is not None:
            values, groups, counts = self._distinct
            yield *boundary_distances(values), groups, counts
            return
        for chosen in self._slices():
            yield *boundary_distances(self.weight[chosen]), self._groups[chosen], 1.0

    @cached_property
    def _distinct(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """The distinct |w| of a bfloat16 base with group and count: tens of thousands. None for another base."""
        if any(not torch.equal(self._cast[chosen].to(torch.float64), self.weight[chosen]) for chosen in self._slices()):
            return None
        tally = torch.zeros(_GROUPS << 15, dtype=torch.int64, device=self.weight.device)
        for chosen in self._slices():
            code = (self._cast[chosen].view(torch.int16) & 0x7FFF).to(torch.int64)
            code += self._groups[chosen].to(torch.int64) << 15
            tally += torch.bincount(code.flatten(), minlength=len(tally))
        found = torch.nonzero(tally)[:, 0]
        values = (found & 0x7FFF).to(torch.int16).view(torch.bfloat16).to(torch.float64)
        return values, found >> 15, tally[found].to(torch.float64)


def _surely_inside(values: Tensor) -> Tensor:
    below, above = boundary_distances(values)
    inside = torch.minimum(below, above) * (1 - 2.0**-20) - values.abs() * 2.0**-50
    least = torch.finfo(torch.float32).smallest_normal
    return torch.where(inside > least, inside, 0.0).to(torch.float32)


def _add(sums: Tensor, groups: Tensor, parts: tuple[Tensor, ...]) -> None:
    flat = groups.flatten()
    for row, part in zip(sums, parts, strict=True):
        row += torch.bincount(flat, weights=part.flatten(), minlength=_GROUPS)


def _ginis(seen: _Seen) -> dict[str, float]:
    return {"row_gini": gini(seen.norms.rows), "column_gini": gini(seen.norms.columns)}
