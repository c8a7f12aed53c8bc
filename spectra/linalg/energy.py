"""Where an update's energy lies in the base's singular basis.

With W = UΣVᵀ and ΔW = P diag(s) Zᵀ, the energies need only the Q × R coordinates UᵀP and VᵀZ. Shares are parts of the
whole ‖ΔW‖²_F; what lies outside the base's column or row space is reported, not hidden by renormalising.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from spectra.linalg.decompose import Basis, Factors


@dataclass(frozen=True)
class Alignment:
    """Coordinates of an update in the base's singular basis.

    Attributes
    ----------
    left
        UᵀP diag(s)/‖s‖, Q × R.
    right
        VᵀZ, Q × R: the weights s are on the left side only.
    shares
        p_r = s_r²/Σs², R.
    shape
        (O, I).
    """

    left: Float64[Tensor, "q r"]
    right: Float64[Tensor, "q r"]
    shares: Float64[Tensor, " r"]
    shape: tuple[int, int]

    def left_profile(self) -> Float64[Tensor, " q"]:
        """Return ‖u_iᵀΔW‖²/‖ΔW‖² for each base direction i."""
        return (self.left**2).sum(1)

    def right_profile(self) -> Float64[Tensor, " q"]:
        """Return ‖ΔW v_j‖²/‖ΔW‖² for each base direction j."""
        return self.right**2 @ self.shares

    def joint_share(self, directions: slice) -> float:
        """Return ‖U_KᵀΔW V_K‖²/‖ΔW‖² for a range K of directions on both sides."""
        return float(((self.left[directions] @ self.right[directions].T) ** 2).sum())

    def outside_left(self) -> float:
        """Return the share of energy outside the base's column space: 0 unless O > I."""
        return _rest(self.left_profile(), self.shape[0] > self.shape[1])

    def outside_right(self) -> float:
        """Return the share of energy outside the base's row space: 0 unless I > O."""
        return _rest(self.right_profile(), self.shape[1] > self.shape[0])


def align(basis: Basis, matrix: Float64[Tensor, "o i"], update: Factors) -> Alignment:
    """Return the coordinates of an update, given by its SVD, in the basis of the base matrix ``matrix``."""
    weights = update.s / torch.linalg.vector_norm(update.s)
    left = basis.left(matrix, update.u * weights)
    return Alignment(left, basis.right(matrix, update.v), weights**2, basis.shape)


def bin_edges(directions: int, bins: int) -> list[int]:
    """Return edges of ``bins`` ranges of nearly equal count over 0 … directions.

    >>> bin_edges(10, 4)
    [0, 2, 5, 8, 10]
    """
    bins = min(bins, directions)
    return [round(i * directions / bins) for i in range(bins + 1)]


def binned(profile: Float64[Tensor, " q"], edges: list[int]) -> list[float]:
    """Return the sum of ``profile`` in each bin."""
    return [float(profile[lo:hi].sum()) for lo, hi in zip(edges[:-1], edges[1:], strict=True)]


def _rest(profile: Tensor, may_be_outside: bool) -> float:
    inside = profile.sum()  # NaN for ΔW = 0
    return float((1 - inside).clamp(min=0)) if may_be_outside else float(inside * 0)
