"""Exact moments, up to the fourth, of quadratic forms in Haar-distributed orthogonal matrices.

For symmetric A and B of order d and a Haar matrix H,

    E tr(A H B Hᵀ)^j = Σ_κ C_κ(A) C_κ(B)/C_κ(1),   κ over the partitions of j,

with the zonal polynomials C_κ (James 1964; Muirhead, *Aspects of Multivariate Statistical Theory*, §7.2), which depend
only on the power sums of the eigenvalues. Moments of the diagonal share, which is not such a trace, come from the
orthogonal Weingarten calculus (Collins and Śniady 2006), over the pairings of 2j indices.

Power sums here are (Σp², Σp³, Σp⁴) of the energy shares p_r = σ_r²/Σσ²; Σp = 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# A number, or one a row where many distributions are matched at once.
Number = float | NDArray[np.float64]
Count = int | NDArray[np.int64]
Powers = tuple[Number, Number, Number]
Partition = tuple[int, ...]
Matrix = NDArray[np.float64]

# A relative variance up to this is rounding, as for a flat full-rank spectrum, whose energy is the same everywhere. A
# real spread is of order 1/(k·d) or more.
_NO_VARIANCE = 1e-14

# A side with all directions chosen; four dimensions are enough for every partition of up to four.
FULL_SIDE = (4, 4)

# Power-sum types in the order of the coefficients below.
_TYPES: dict[int, tuple[Partition, ...]] = {
    2: ((1, 1), (2,)),
    3: ((1, 1, 1), (2, 1), (3,)),
    4: ((1, 1, 1, 1), (2, 1, 1), (2, 2), (3, 1), (4,)),
}
# κ, the weight of Z_κ in (tr)^j = Σ weight·Z_κ/Σ weight, and Z_κ's coefficients (Parkhurst and James 1974).
_ZONAL: dict[int, tuple[tuple[Partition, int, tuple[int, ...]], ...]] = {
    2: (((2,), 1, (1, 2)), ((1, 1), 2, (1, -1))),
    3: (((3,), 1, (1, 6, 8)), ((2, 1), 9, (1, 1, -2)), ((1, 1, 1), 5, (1, -3, 2))),
    4: (
        ((4,), 1, (1, 12, 12, 32, 48)),
        ((3, 1), 20, (1, 5, -2, 4, -8)),
        ((2, 2), 14, (1, 2, 7, -8, -2)),
        ((2, 1, 1), 56, (1, -1, -2, -2, 4)),
        ((1, 1, 1, 1), 14, (1, -6, 3, 8, -6)),
    ),
}


@dataclass(frozen=True)
class Moments:
    """What a distribution is matched to, or what N distributions are matched to.

    Attributes
    ----------
    mean, sd
        Mean and standard deviation.
    skewness, excess
        Third standardized cumulant, and fourth (kurtosis − 3); NaN where there is no spread.
    """

    mean: Number
    sd: Number
    skewness: Number
    excess: Number

    @classmethod
    def of_relative(cls, mean: Number, second: Number, third: Number, fourth: Number) -> "Moments":
        """Return the moments of X from E X^j/mean^j − 1, which keep their digits where the spread is small."""
        spread = np.where(np.greater(second, _NO_VARIANCE), second, np.nan)[()]
        skewness = (third - 3 * spread) / spread**1.5
        kurtosis = (fourth - 4 * third + 6 * spread) / spread**2
        sd = np.where(np.less_equal(second, _NO_VARIANCE), 0.0, mean * np.sqrt(spread))[()]
        return cls(mean, sd, skewness, kurtosis - 3)

    def at(self, rows: NDArray[np.bool_]) -> "Moments":
        """Return the moments of some of N distributions."""
        return Moments(*(np.broadcast_to(field, rows.shape)[rows] for field in vars(self).values()))


def relative_moments(left: tuple[Count, Count], right: tuple[Count, Count], powers: Powers) -> Powers:
    """Return E X^j/(E X)^j − 1 for j = 2, 3, 4 of the share X of a block of directions.

    X = ‖P_lᵀΔW P_r‖²/‖ΔW‖², ΔW of random orientation: E X^j = Σ_κ C_κ(1_kl)/C_κ(1_m) · C_κ(1_kr)/C_κ(1_n) · C_κ(p).

    Parameters
    ----------
    left, right
        (k, d): directions in the block, and dimension of the side; :data:`FULL_SIDE` makes the share one-sided. N of
        each give N moments.
    powers
        Power sums of the energy shares, numbers or (N,) each.
    """
    blocks = [np.atleast_1d(count).tolist() for count in (*left, *right)]
    length = max(map(len, blocks))
    each = list(zip(*(block * length if len(block) == 1 else block for block in blocks), strict=True))
    single = all(np.ndim(value) == 0 for value in (*left, *right, *powers))
    second, third, fourth = (
        (np.array([_block_ratios(*block, order) for block in each]) * _zonal(powers, order)).sum(-1)
        for order in (2, 3, 4)
    )
    return (second[0], third[0], fourth[0]) if single else (second, third, fourth)


def centered_moments(weights: NDArray[np.float64], powers: Powers) -> Moments:
    """Return the moments of Σ w_i e_i, e the profile of an update of random orientation in q dimensions.

    Both the weights and the energy shares are centered first, so that no digits cancel.

    Parameters
    ----------
    weights
        One weight per direction, q in all.
    powers
        Power sums of the energy shares of the update in these dimensions, numbers or (N,) each.
    """
    directions = len(weights)
    mean = math.fsum(weights) / directions
    w2, w3, w4 = (math.fsum(((weights - mean) ** power).tolist()) for power in (2, 3, 4))
    first, second, third = powers
    flat = 1 / directions
    d2 = first - flat
    d3 = second - 3 * flat * first + 2 * flat**2
    d4 = third - 4 * flat * second + 6 * flat**2 * first - 3 * flat**3
    parts = {2: ((w2,), (d2,)), 3: ((w3,), (d3,)), 4: ((w2**2, w4), (d2**2, d4))}
    moment = {order: _centered(order, directions, *both) for order, both in parts.items()}
    least = _NO_VARIANCE * w2 / directions
    variance = np.where(np.greater(moment[2], least), moment[2], np.nan)[()]
    sd = np.where(np.less_equal(moment[2], least), 0.0, np.sqrt(variance))[()]
    mean_of_each = np.broadcast_to(mean, np.shape(sd))[()]
    return Moments(mean_of_each, sd, moment[3] / variance**1.5, moment[4] / variance**2 - 3)


def diagonal_moments(out_dim: int, in_dim: int, powers: Powers) -> Moments:
    """Return the moments of Σ_i (u_iᵀΔWv_i)²/‖ΔW‖² over min(m, n) directions, ΔW of random orientation.

    E X^j = Σ over pairings of q^{#blocks} Wg_m Wg_n Π Σp^ℓ, exact; 105 pairings for the fourth.
    """
    raw = [1.0, *(_diagonal_raw(order, out_dim, in_dim, powers) for order in (1, 2, 3, 4))]
    mean = raw[1]
    return Moments.of_relative(mean, *(raw[j] / mean**j - 1 for j in (2, 3, 4)))


def _rising(dimension: int, partition: Partition) -> int:
    """Return 2^j (d/2)_κ = Z_κ(1_d), zero where κ has more parts than d."""
    return math.prod(dimension - row + 2 * column for row, part in enumerate(partition) for column in range(part))


@lru_cache(maxsize=4096)
def _block_ratios(k_left: int, m: int, k_right: int, n: int, order: int) -> tuple[float, ...]:
    """Return, for each κ, the exact ratio of its term to that of the mean's power, minus one."""
    mean = Fraction(k_left * k_right, m * n) ** order
    out = []
    for partition, _, _ in _ZONAL[order]:
        full = _rising(m, partition) * _rising(n, partition)
        block = _rising(k_left, partition) * _rising(k_right, partition)
        out.append(float(Fraction(block, full) / mean - 1) if full else 0.0)
    return tuple(out)


def _zonal(powers: Powers, order: int) -> Matrix:
    """Return C_κ(p) for each κ on the last axis."""
    total = sum(weight for _, weight, _ in _ZONAL[order])
    coefficients = np.array([coefficients for *_, coefficients in _ZONAL[order]], dtype=np.float64)
    weights = np.array([weight / total for _, weight, _ in _ZONAL[order]])
    return weights * (_products(powers, order) @ coefficients.T)


def _products(powers: Powers, order: int) -> Matrix:
    """Return the products of power sums of each type on the last axis, those of Σp = 1 among them."""
    sums = (np.ones(np.shape(powers[0])), *powers)
    return np.stack([math.prod(sums[part - 1] for part in kind) for kind in _kinds(order)], axis=-1)


def _centered(order: int, dimension: int, left: tuple[Number, ...], right: tuple[Number, ...]) -> Number:
    """Return E tr(A H B Hᵀ)^j for traceless A and B, given their power-sum products of the types without ones."""
    kept = [index for index, kind in enumerate(_TYPES[order]) if 1 not in kind]
    total = sum(weight for _, weight, _ in _ZONAL[order])
    moment: Number = 0.0
    for partition, weight, coefficients in _ZONAL[order]:
        full = _rising(dimension, partition)
        if full:
            a, b = (sum(coefficients[i] * x for i, x in zip(kept, side, strict=True)) for side in (left, right))
            moment += weight / total * a * b / full
    return moment


def _diagonal_raw(order: int, out_dim: int, in_dim: int, powers: Powers) -> Number:
    raw: Number = (_products(powers, order) @ _diagonal_coefficients(order, out_dim, in_dim))[()]
    return raw


@lru_cache(maxsize=256)
def _diagonal_coefficients(order: int, out_dim: int, in_dim: int) -> Matrix:
    """Return what each type of product of power sums counts for: the sum over the pairings is linear in them."""
    loops, factor = _loops(order), float(min(out_dim, in_dim)) ** _joins(order)
    left, right = _weingarten(order, out_dim), _weingarten(order, in_dim)
    return np.array([(factor * (left @ (loops == kind) @ right)).sum() for kind in range(len(_kinds(order)))])


def _pairings(points: tuple[int, ...]) -> list[tuple[tuple[int, int], ...]]:
    if not points:
        return [()]
    first, rest = points[0], points[1:]
    return [
        ((first, other), *pairing)
        for index, other in enumerate(rest)
        for pairing in _pairings(rest[:index] + rest[index + 1 :])
    ]


@lru_cache
def _kinds(order: int) -> tuple[Partition, ...]:
    return _TYPES[order] if order > 1 else ((1,),)


@lru_cache
def _loops(order: int) -> NDArray[np.int64]:
    """Return, for each pair of pairings, the index of the type of loops that they form together."""
    pairings = _pairings(tuple(range(2 * order)))
    kinds = {tuple(sorted(kind, reverse=True)): index for index, kind in enumerate(_kinds(order))}
    return np.array(
        [[kinds[_blocks((*first, *second), 2 * order)] for second in pairings] for first in pairings], dtype=np.int64
    )


@lru_cache
def _joins(order: int) -> NDArray[np.int64]:
    """Return, for each pair of pairings, the number of blocks into which they join the pairs (1 2)(3 4)…."""
    pairings = _pairings(tuple(range(2 * order)))
    fixed = tuple((2 * i, 2 * i + 1) for i in range(order))
    return np.array(
        [[len(_blocks((*first, *second, *fixed), 2 * order)) for second in pairings] for first in pairings],
        dtype=np.int64,
    )


def _blocks(edges: Sequence[tuple[int, int]], points: int) -> Partition:
    """Return half the sizes of the connected blocks, descending."""
    root = list(range(points))
    for one, other in edges:
        a, b = root[one], root[other]
        root = [a if at == b else at for at in root]
    return tuple(sorted((root.count(block) // 2 for block in set(root)), reverse=True))


@lru_cache(maxsize=256)
def _weingarten(order: int, dimension: int) -> Matrix:
    """Return the orthogonal Weingarten matrix: the pseudo-inverse of d^{#loops}."""
    number = np.array([len(kind) for kind in _kinds(order)])[_loops(order)]
    # Scaled to a unit diagonal, so that the cutoff of the pseudo-inverse does not depend on d.
    inverse = np.linalg.pinv(float(dimension) ** (number - order), hermitian=True)
    return np.asarray(inverse / float(dimension) ** order, dtype=np.float64)
