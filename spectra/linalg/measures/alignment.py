"""Energy of an update along the singular directions of the base weight.

With W = UΣVᵀ and ΔW = P diag(s) Zᵀ, the energies need only the Q × R coordinates UᵀP and VᵀZ. Shares are fractions of
‖ΔW‖²_F; energy outside the base's column or row space is reported, not hidden by renormalizing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from spectra.linalg.decompositions.basis import Basis, Factors, small_side_svd
from spectra.linalg.operators.basic import Operator

# Columns projected at a time: a block of the long side with this many columns is small next to the base matrix.
_CHUNK = 128


@dataclass(frozen=True)
class Alignment:
    """Coordinates of an update in the singular basis of the base weight.

    With ΔW = P diag(s) Zᵀ, one of the two factors below carries the weights s/‖s‖: left·rightᵀ = UᵀΔWV/‖ΔW‖.

    Attributes
    ----------
    sigma
        Singular values s of ΔW, R.
    left
        UᵀP, Q × R, weighted or not.
    right
        VᵀZ, Q × R, weighted where ``left`` is not.
    left_is_weighted
        Whether ``left`` carries the weights.
    left_profile
        ‖u_iᵀΔW‖²/‖ΔW‖² for each base direction i, Q.
    right_profile
        ‖ΔW v_j‖²/‖ΔW‖² for each base direction j, Q.
    shape
        (O, I).
    """

    sigma: Float64[Tensor, " r"]
    left: Float64[Tensor, "q r"]
    right: Float64[Tensor, "q r"]
    left_is_weighted: bool
    left_profile: Float64[Tensor, " q"]
    right_profile: Float64[Tensor, " q"]
    shape: tuple[int, int]

    def joint_share(self, directions: slice) -> float:
        """Return ‖U_KᵀΔW V_K‖²/‖ΔW‖² for a range K of directions on both sides."""
        left, right = self.left[directions], self.right[directions]
        if not self._is_thin(len(left)):
            return float(((left @ right.T) ** 2).sum())
        return float(((left.T @ left) * (right.T @ right)).sum().clamp(min=0))

    def map(self, bins: int) -> Float64[Tensor, "b b"]:
        """Return |u_iᵀΔWv_j|²/‖ΔW‖² summed in blocks of :func:`bin_edges`, left bins by right bins.

        At most q × q/bins entries of the q × q matrix exist at a time. The blocks sum to 1 less the energy outside.
        """
        edges = bin_edges(len(self.left), bins)
        if self._is_thin(edges[1]):
            left, right = _block_grams(self.left, edges), _block_grams(self.right, edges)
            return (left @ right.T).clamp(min=0)
        rows = []
        for lo, hi in pairwise(edges):
            columns = ((self.left[lo:hi] @ self.right.T) ** 2).sum(0)
            rows.append(torch.stack([columns[start:stop].sum() for start, stop in pairwise(edges)]))
        return torch.stack(rows)

    def _is_thin(self, directions: int) -> bool:
        """Return whether ‖LRᵀ‖² = tr(LᵀL·RᵀR) is cheaper than the product; it is as good to ε of ‖L‖²‖R‖²."""
        return self.left.shape[1] <= directions

    def diagonal_share(self) -> float:
        """Return Σ_i (u_iᵀΔWv_i)²/‖ΔW‖²: to first order, the share of ΔW that moves the singular values of W.

        Between 0 and 1; q/(mn) for a random orientation. NaN for ΔW = 0.
        """
        return float(((self.left * self.right).sum(1) ** 2).sum())

    def centroid_left(self) -> float:
        """Return Σ i·e_i/Σe_i of ``left_profile``, i from 0: (q − 1)/2 for a random orientation, NaN for ΔW = 0."""
        return _centroid(self.left_profile)

    def centroid_right(self) -> float:
        """Return the centroid of ``right_profile``."""
        return _centroid(self.right_profile)

    def inside_left(self) -> tuple[float, float, float]:
        """Return Σp², Σp³ and Σp⁴ of the energy shares of UUᵀΔW, Σp = 1: the part in the base's column space.

        The null of the left centroid depends on nothing else. NaN if that part is zero.
        """
        outside = self.shape[0] > self.shape[1]
        return self._powers(self._weighted(self.left, self.left_is_weighted) if outside else None)

    def inside_right(self) -> tuple[float, float, float]:
        """Return the same power sums for ΔWVVᵀ, the part in the base's row space."""
        outside = self.shape[1] > self.shape[0]
        return self._powers(self._weighted(self.right, not self.left_is_weighted) if outside else None)

    def _weighted(self, side: Tensor, carries: bool) -> Tensor:
        return side if carries else side * (self.sigma / torch.linalg.vector_norm(self.sigma))

    def _powers(self, inside: Tensor | None) -> tuple[float, float, float]:
        if inside is None:
            p = (self.sigma / torch.linalg.vector_norm(self.sigma)) ** 2
            return float((p**2).sum()), float((p**3).sum()), float((p**4).sum())
        gram = inside.T @ inside
        gram = gram / gram.trace()
        square = gram @ gram
        return float((gram**2).sum()), float((square * gram).sum()), float((square**2).sum())

    def outside_left(self) -> float:
        """Return the share of energy outside the base's column space: 0 unless O > I."""
        return _rest(self.left_profile, self.shape[0] > self.shape[1])

    def outside_right(self) -> float:
        """Return the share of energy outside the base's row space: 0 unless I > O."""
        return _rest(self.right_profile, self.shape[1] > self.shape[0])


def align_all(basis: Basis, matrix: Float64[Tensor, "o i"], updates: Sequence[Operator]) -> list[Alignment]:
    """Return the coordinates of several updates: those in factors pay one product of all their columns together."""
    factored = [at for at, update in enumerate(updates) if update.rank_bound < min(update.shape)]
    found = dict(zip(factored, _align_factored(basis, matrix, [updates[at] for at in factored]), strict=True))
    return [found[at] if at in found else _align_streamed(basis, matrix, update) for at, update in enumerate(updates)]


def align(basis: Basis, matrix: Float64[Tensor, "o i"], update: Operator) -> Alignment:
    """Return the coordinates of an update in the basis of the base matrix ``matrix``.

    A factored update costs products with as many columns as its rank. A full-rank update is streamed along its long
    side, so that no second matrix of the base's size is formed.
    """
    return align_all(basis, matrix, [update])[0]


def _align_factored(basis: Basis, matrix: Tensor, updates: Sequence[Operator]) -> list[Alignment]:
    if not updates:
        return []
    factors = [update.svd() for update in updates]
    ranks = [len(found.s) for found in factors]
    lefts = torch.split(basis.left(matrix, torch.cat([found.u for found in factors], 1)), ranks, 1)
    rights = torch.split(basis.right(matrix, torch.cat([found.v for found in factors], 1)), ranks, 1)
    return [_weighted(*found, basis.shape) for found in zip(factors, lefts, rights, strict=True)]


def _weighted(factors: Factors, left: Tensor, right: Tensor, shape: tuple[int, int]) -> Alignment:
    weights = factors.s / torch.linalg.vector_norm(factors.s)
    left, energy = left * weights, weights**2
    return Alignment(factors.s, left, right, True, (left**2).sum(1), right**2 @ energy, shape)


def _align_streamed(basis: Basis, matrix: Tensor, update: Operator) -> Alignment:
    rows, columns = update.shape
    if rows > columns:  # the same with the sides exchanged
        # The stored vectors are those of the small side, left or right.
        flipped = _align_streamed(replace(basis, shape=(columns, rows)), matrix.T, update.T)
        return Alignment(
            flipped.sigma,
            flipped.right,
            flipped.left,
            not flipped.left_is_weighted,
            flipped.right_profile,
            flipped.left_profile,
            (rows, columns),
        )
    vectors, sigma = small_side_svd(lambda start, stop: update.columns(start, stop).T, columns)
    norm = torch.linalg.vector_norm(sigma)
    left = basis.left(matrix, vectors)
    # The long side's vectors times s are the image of the small side's, so nothing is divided by a tiny s.
    parts = [vectors[:, start : start + _CHUNK] for start in range(0, vectors.shape[1], _CHUNK)]
    right = torch.cat([basis.right(matrix, update.rmatmul(part)) for part in parts], dim=1) / norm
    return Alignment(sigma, left, right, False, left**2 @ (sigma / norm) ** 2, (right**2).sum(1), (rows, columns))


def bin_edges(directions: int, bins: int) -> list[int]:
    """Return edges of ``bins`` ranges of nearly equal count over 0 … directions.

    >>> bin_edges(10, 4)
    [0, 2, 5, 8, 10]
    """
    bins = min(bins, directions)
    return [round(i * directions / bins) for i in range(bins + 1)]


def binned(profile: Float64[Tensor, " q"], edges: list[int]) -> NDArray[np.float64]:
    """Return the sum of ``profile`` in each bin."""
    return np.asarray(np.add.reduceat(profile.numpy(force=True), edges[:-1]))


def _block_grams(side: Tensor, edges: list[int]) -> Tensor:
    """Return LᵀL of each block of rows, one a row."""
    return torch.stack([(side[lo:hi].T @ side[lo:hi]).flatten() for lo, hi in pairwise(edges)])


def _centroid(profile: Tensor) -> float:
    index = torch.arange(len(profile), dtype=torch.float64, device=profile.device)
    return float((index @ profile) / profile.sum())


def _rest(profile: Tensor, may_be_outside: bool) -> float:
    inside = profile.sum()  # NaN for ΔW = 0
    return float((1 - inside).clamp(min=0)) if may_be_outside else float(inside * 0)
