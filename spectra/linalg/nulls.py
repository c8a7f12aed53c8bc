"""What chance gives: moments of energy shares when ΔW keeps its singular values and takes a random orientation.

The Haar null draws the left and the right singular vectors of ΔW independently and uniformly. All shares below are
parts of ‖ΔW‖²_F. With p_r = σ_r²/Σσ² the only thing the null needs to know of the spectrum is the *concentration*
Σp_r² = 1 / participation ratio. Moments follow from the Beta law of ‖P_k a‖² for a uniform unit vector a
(Muirhead, *Aspects of Multivariate Statistical Theory*, §1.5) and from exchangeability of the columns of a Haar
matrix, whose squared projections sum to k exactly.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Null:
    """Mean and standard deviation of a share under a null."""

    mean: float
    sd: float

    def lift(self, share: float) -> float:
        """Return share / mean. 1 is chance; range 0 to 1/mean."""
        return share / self.mean

    def z(self, share: float) -> float:
        """Return (share − mean) / sd, NaN where the null has no spread (k covers everything)."""
        return (share - self.mean) / self.sd if self.sd > 0 else math.nan


def haar_share(k: int, dim: int, concentration: float) -> Null:
    """Return the null of the one-sided share ‖P_kΔW‖²/‖ΔW‖² in k of ``dim`` directions.

    Mean k/d. Variance v·(d·c − 1)/(d − 1) with v = 2k(d − k)/(d²(d + 2)) and c the concentration: a rank-1 update
    (c = 1) has the whole Beta variance, a flat full-rank one (c = 1/d) has none, since its energy is the same in
    every direction.

    Parameters
    ----------
    k
        Number of directions, 0 ≤ k ≤ dim.
    dim
        Dimension of the side: out-features for the left, in-features for the right.
    concentration
        Σp², 1/dim ≤ c ≤ 1. NaN (ΔW = 0) gives a NaN spread.
    """
    mean = k / dim
    if dim == 1:
        return Null(mean, 0.0)
    return Null(mean, _root(_diagonal_variance(k, dim) * (dim * concentration - 1) / (dim - 1)))


def haar_joint_share(k: int, out_dim: int, in_dim: int, concentration: float) -> Null:
    """Return the null of the joint share ‖U_kᵀΔWV_k‖²/‖ΔW‖² in k × k directions.

    Mean k²/(mn). With M = AᵀP_kA and N = BᵀP_kB for independent Haar A and B, the share is Σ_{rs} √(p_r p_s) M_rs N_rs,
    and its second moment is c·E[M_11²]E[N_11²] + (1 − c)(E[M_11M_22]E[N_11N_22] + 2E[M_12²]E[N_12²]).

    Parameters
    ----------
    k
        Number of directions on each side.
    out_dim, in_dim
        Out-features and in-features.
    concentration
        Σp² as in :func:`haar_share`.
    """
    left, right = k / out_dim, k / in_dim
    (v_left, w_left, o_left), (v_right, w_right, o_right) = _moments(k, out_dim), _moments(k, in_dim)
    # Written in variances, not as E X² − (E X)², which loses its digits when the spread is small.
    same = left**2 * v_right + right**2 * v_left + v_left * v_right
    cross = w_left * w_right - left**2 * w_right - right**2 * w_left
    return Null(left * right, _root(concentration * same + (1 - concentration) * (cross + 2 * o_left * o_right)))


def mean_of_independent(nulls: list[Null]) -> Null:
    """Return the null of the plain mean of independent shares, such as one share a matrix."""
    count = len(nulls)
    return Null(sum(n.mean for n in nulls) / count, math.sqrt(sum(n.sd**2 for n in nulls)) / count)


def _diagonal_variance(k: int, dim: int) -> float:
    """Variance of ‖P_k a‖² for a uniform unit vector a: Beta(k/2, (d − k)/2)."""
    return 2 * k * (dim - k) / (dim**2 * (dim + 2))


def _moments(k: int, dim: int) -> tuple[float, float, float]:
    """Return Var M_11, −Cov(M_11, M_22) and E[M_12²] of M = AᵀP_kA, A Haar of order ``dim``."""
    variance = _diagonal_variance(k, dim)
    if dim == 1:
        return variance, 0.0, 0.0
    return variance, variance / (dim - 1), k * (dim - k) / ((dim + 2) * dim * (dim - 1))


def _root(variance: float) -> float:
    # Rounding can push a variance that is zero (a flat full-rank spectrum) a hair below; NaN must stay NaN.
    return variance if math.isnan(variance) else math.sqrt(max(variance, 0.0))
