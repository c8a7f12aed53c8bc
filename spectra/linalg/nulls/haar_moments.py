"""Moments of energy shares under the Haar null: ΔW keeps its singular values and takes a random orientation.

The Haar null draws the left and the right singular vectors of ΔW independently and uniformly. All shares below are
fractions of ‖ΔW‖²_F. With p_r = σ_r²/Σσ², the null depends on the spectrum only through the *concentration*
Σp_r² = 1 / participation ratio. Moments follow from the Beta distribution of ‖P_k a‖² for a uniform unit vector a
(Muirhead, *Aspects of Multivariate Statistical Theory*, §1.5) and from exchangeability of the columns of a Haar
matrix, whose squared projections sum to k exactly. p-values need more than two moments of the distribution: they are
in :mod:`spectra.linalg.nulls.distributions`, and this module stays plain arithmetic.
"""

import math
from dataclasses import dataclass

# 97.5 % quantile of the standard normal distribution: the half-width of a mean's 95 % interval in standard deviations,
# and the |z| above which chance is not an explanation.
NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Null:
    """Mean and standard deviation of a share under a null."""

    mean: float
    sd: float

    def lift(self, share: float) -> float:
        """Return share / mean, the enrichment over chance: 1 is chance; range 0 to 1/mean."""
        return share / self.mean

    def z(self, share: float) -> float:
        """Return (share − mean) / sd, NaN if the null has no spread (k covers everything)."""
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
        Σp², 1/dim ≤ c ≤ 1. NaN (ΔW = 0) gives a standard deviation of NaN.
    """
    mean = k / dim
    if dim == 1:
        return Null(mean, 0.0)
    return Null(mean, sqrt_variance(_diagonal_variance(k, dim) * (dim * concentration - 1) / (dim - 1)))


def haar_joint_share(k: int, out_dim: int, in_dim: int, concentration: float) -> Null:
    """Return the null of the joint share ‖U_kᵀΔWV_k‖²/‖ΔW‖² in k × k directions, see :func:`haar_block_share`.

    Parameters
    ----------
    k
        Number of directions on each side.
    out_dim, in_dim
        Out-features and in-features.
    concentration
        Σp² as in :func:`haar_share`.
    """
    return haar_block_share((k, k), (out_dim, in_dim), concentration)


def haar_block_share(block: tuple[int, int], shape: tuple[int, int], concentration: float) -> Null:
    """Return the null of the share ‖U_kᵀΔWV_l‖²/‖ΔW‖² in a block of k × l directions, such as one of the map.

    Mean kl/(mn). With M = AᵀP_kA and N = BᵀP_lB for independent Haar A and B, the share is Σ_{rs} √(p_r p_s) M_rs N_rs,
    and its second moment is c·E[M_11²]E[N_11²] + (1 − c)(E[M_11M_22]E[N_11N_22] + 2E[M_12²]E[N_12²]).

    Parameters
    ----------
    block
        (k, l), directions on the left and on the right.
    shape
        (O, I).
    concentration
        Σp² as in :func:`haar_share`.
    """
    (k_left, k_right), (m, n) = block, shape
    left, right = k_left / m, k_right / n
    (v_left, w_left, o_left), (v_right, w_right, o_right) = _moments(k_left, m), _moments(k_right, n)
    # Written in variances, not as E X² − (E X)², which loses its digits when the spread is small.
    same = left**2 * v_right + right**2 * v_left + v_left * v_right
    cross = w_left * w_right - left**2 * w_right - right**2 * w_left
    return Null(
        left * right, sqrt_variance(concentration * same + (1 - concentration) * (cross + 2 * o_left * o_right))
    )


def haar_centroid(directions: int, inside: float) -> Null:
    """Return the null of the centroid Σ i·e_i/Σe_i of one side's energy over q base directions, i from 0.

    Mean (q − 1)/2. Given the singular values of the part of ΔW inside the span of the q directions, e/Σe is the profile
    of an update of random orientation in q dimensions: variance q(q² − 1)/12 · 2(qc − 1)/(q(q + 2)(q − 1)), exact. On
    the side of q dimensions all of ΔW is inside. On the longer side the null is conditional on the part inside, which
    carries no information on where in the span it lies.

    Parameters
    ----------
    directions
        q = min(O, I).
    inside
        Σp² of the part inside: ``concentration`` on the short side.
    """
    q = directions
    if q == 1:
        return Null(0.0, 0.0)
    return Null((q - 1) / 2, sqrt_variance((q + 1) * (q * inside - 1) / (6 * (q + 2))))


def haar_diagonal_share(out_dim: int, in_dim: int, concentration: float) -> Null:
    """Return the null of the diagonal share Σ_i (u_iᵀΔWv_i)²/‖ΔW‖² over q = min(m, n) directions.

    Mean q/(mn). Variance q·E x⁴ + q(q − 1)·E x²y² − mean² for two diagonal entries x and y:
    E x⁴ = (6c + 3)α_mα_n and E x²y² = c·α_mα_n + (1 − c)(β_mβ_n + 2γ_mγ_n), with α_d = 1/(d(d + 2)),
    γ_d = −α_d/(d − 1) and β_d = (d + 1)α_d/(d − 1), the moments a⁴/3, a_i1a_i2a_j1a_j2 and a_i1²a_j2² of a Haar matrix.

    Parameters
    ----------
    out_dim, in_dim
        Out-features and in-features.
    concentration
        Σp² as in :func:`haar_share`.
    """
    q, c = min(out_dim, in_dim), concentration
    mean = q / (out_dim * in_dim)
    alpha = 1 / (out_dim * (out_dim + 2) * in_dim * (in_dim + 2))
    variance = q * (6 * c + 3) * alpha - mean**2
    if q > 1:
        odds = ((out_dim + 1) * (in_dim + 1) + 2) / ((out_dim - 1) * (in_dim - 1))
        variance += q * (q - 1) * alpha * (c + (1 - c) * odds)
    return Null(mean, sqrt_variance(variance))


def isotropic_rho(out_dim: int, in_dim: int) -> float:
    """Return ρ_Σ = ‖σ(W + ΔW) − σ(W)‖/‖ΔW‖ of a small update in random directions: 1/√max(O, I).

    To first order Δσ_i is u_iᵀΔWv_i, and these q of the O·I entries hold q/(O·I) of the energy.
    """
    return 1 / math.sqrt(max(out_dim, in_dim))


def walk_cosine(step: int, last: int) -> float:
    """Return √(t/T), the cosine between a random walk of independent steps at t and at its end T, 0 ≤ t ≤ T.

    NaN for T = 0, where the walk has not moved.
    """
    return math.sqrt(step / last) if last > 0 else math.nan


def mean_of_independent(nulls: list[Null]) -> Null:
    """Return the null of the plain mean of independent shares, such as one share per matrix."""
    count = len(nulls)
    return Null(sum(n.mean for n in nulls) / count, math.sqrt(sum(n.sd**2 for n in nulls)) / count)


def _diagonal_variance(k: int, dim: int) -> float:
    """Return the variance of ‖P_k a‖² for a uniform unit vector a: Beta(k/2, (d − k)/2)."""
    return 2 * k * (dim - k) / (dim**2 * (dim + 2))


def _moments(k: int, dim: int) -> tuple[float, float, float]:
    """Return Var M_11, −Cov(M_11, M_22) and E[M_12²] of M = AᵀP_kA, A Haar of order ``dim``."""
    variance = _diagonal_variance(k, dim)
    if dim == 1:
        return variance, 0.0, 0.0
    return variance, variance / (dim - 1), k * (dim - k) / ((dim + 2) * dim * (dim - 1))


def sqrt_variance(variance: float) -> float:
    """Return √variance; 0 for a negative one, since rounding can push a variance of zero below; NaN stays NaN."""
    return variance if math.isnan(variance) else math.sqrt(max(variance, 0.0))
