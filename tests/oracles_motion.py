"""How a matrix moves, worked out a second time: numpy and scipy in float64, and mpmath with 50 digits."""

from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard, subspace_angles

Matrix = NDArray[np.float64]
Row = dict[str, Any]

DIMENSIONS = (1, 4, 16, 64)
DIGITS = 50


def drift_row(weight: Matrix, delta: Matrix) -> Row:
    """Return the columns of table ``drift`` but ``nss_error``, from two dense SVDs; both matrices of full rank."""
    moved = weight + delta
    u, s, vh = np.linalg.svd(weight, full_matrices=False)
    u2, s2, vh2 = np.linalg.svd(moved, full_matrices=False)
    shift = np.sqrt(np.sum((s2 - s) ** 2))
    rho = shift / np.sqrt(np.sum(delta**2))
    row = {
        "nss": shift / np.sqrt(np.sum(s**2)),
        "rho_sigma": rho,
        "kappa_spec": rho**2 * weight.size / min(weight.shape),
        # As half the squared distance of the unit matrices: eps·‖W‖/‖ΔW‖ is its relative error.
        "one_minus_cos": np.sum((moved / np.linalg.norm(moved) - weight / np.linalg.norm(weight)) ** 2) / 2,
    }
    for k in DIMENSIONS:
        angles = _both_sides(u[:, :k], u2[:, :k], vh[:k].T, vh2[:k].T) if k <= len(s) else np.full(1, np.nan)
        row |= {f"angle_max_k{k}": angles.max(), f"angle_mean_k{k}": angles.mean()}
    turned = line_angles(u, u2)
    tenth = max(1, round(len(s) / 10))
    row |= {"rotation_head": np.median(turned[:tenth]), "rotation_tail": np.median(turned[-tenth:])}
    strange = np.abs(u2[:, :10].T @ u).max(axis=1) < 0.5
    return row | {"intruders": int(strange.sum()), "intruder_energy": np.sum(s2[:10][strange] ** 2) / np.sum(s2**2)}


def line_angles(x: Matrix, y: Matrix) -> Matrix:
    """Return the angle between the lines along each pair of unit columns, in degrees, by the part across."""
    cosine = np.sum(x * y, axis=0)
    angles: Matrix = np.degrees(np.arctan2(np.linalg.norm(y - x * cosine, axis=0), np.abs(cosine)))
    return angles


def one_minus_cos(weight: Matrix, delta: Matrix) -> float:
    """Return 1 − cos of the angle between W and W + ΔW: sums in rational arithmetic, then 50 digits."""
    w = [Fraction(float(x)) for x in weight.flat]
    m = [x + Fraction(float(y)) for x, y in zip(w, delta.flat, strict=True)]
    product, squares, moved = (sum(map(_times, a, b), Fraction(0)) for a, b in ((w, m), (w, w), (m, m)))
    with mpmath.workdps(DIGITS):
        lengths = mpmath.sqrt(_mp(squares) * _mp(moved))
        return float(1 - _mp(product) / lengths)


def precise_drift(weight: Matrix, delta: Matrix, k: int) -> Row:
    """Return nss, the largest angle at k and every rotation of left vectors, with 50 digits; small matrices only."""
    with mpmath.workdps(DIGITS):
        first, second = mpmath.matrix(weight.tolist()), mpmath.matrix(weight.tolist()) + mpmath.matrix(delta.tolist())
        (u, s, v), (u2, s2, v2) = (mpmath.svd_r(matrix, full_matrices=False) for matrix in (first, second))
        shift, base = mpmath.norm(s2 - s), mpmath.norm(s)
        largest = max(_largest_sine(u, u2, k), _largest_sine(v.T, v2.T, k))
        return {
            "nss": float(shift / base),
            "angle_max": float(mpmath.degrees(mpmath.asin(largest))),
            "rotations": np.array([_line_angle(u[:, i], u2[:, i]) for i in range(len(s))]),
        }


def known_spectrum(sigma: Matrix, rows: int, columns: int, *, seed: int) -> Matrix:
    """Return a matrix whose singular values are exactly the whole numbers ``sigma``, powers of 2 apart in size.

    Rows of Hadamard matrices of ``rows``·``columns`` = 4^n: every entry is a sum of whole numbers over a power of 2.
    """
    q, rng = len(sigma), np.random.default_rng(seed)
    left = hadamard(rows, dtype=np.float64)[:, rng.permutation(rows)[:q]]
    right = hadamard(columns, dtype=np.float64)[rng.permutation(columns)[:q]]
    known: Matrix = (left * sigma) @ right / np.sqrt(rows * columns)
    return known


def power_law(values: Matrix) -> tuple[float, float]:
    """Return the exponent and the cutoff of the power law of least Kolmogorov-Smirnov distance, one by one."""
    data = np.sort(values)
    fits = []
    for cutoff in np.unique(data[:-2]):
        above = data[data >= cutoff]
        exponent = 1 + len(above) / np.sum(np.log(above / cutoff))
        below = np.array([np.mean(above < x) for x in above])
        fits.append((np.max(np.abs(1 - (above / cutoff) ** (1 - exponent) - below)), exponent, cutoff))
    _, exponent, cutoff = min(fits)
    return float(exponent), float(cutoff)


def _both_sides(u: Matrix, u2: Matrix, v: Matrix, v2: Matrix) -> Matrix:
    angles: Matrix = np.degrees(np.concatenate([subspace_angles(u, u2), subspace_angles(v, v2)]))
    return angles


def _times(x: Fraction, y: Fraction) -> Fraction:
    return x * y


def _mp(x: Fraction) -> Any:
    return mpmath.mpf(x.numerator) / x.denominator


def _largest_sine(x: Any, y: Any, k: int) -> Any:
    old, new = x[:, :k], y[:, :k]
    return max(mpmath.svd_r(new - old * (old.T * new), compute_uv=False))


def _line_angle(x: Any, y: Any) -> float:
    cosine = (x.T * y)[0]
    return float(mpmath.degrees(mpmath.atan2(mpmath.norm(y - x * cosine), abs(cosine))))
