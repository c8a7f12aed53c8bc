"""Where an update lies in the base's basis, and what random orientations give: dense numpy, straight from definitions.

Independent of ``spectra``: random orthogonal matrices from numpy's QR, shares from full matrices.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Matrix = NDArray[Any]


def squares(delta: Matrix, weight: Matrix) -> Matrix:
    """Return (u_iᵀ ΔW v_j)²/‖ΔW‖² for all q × q directions of the base."""
    u, _, vh = np.linalg.svd(weight, full_matrices=False)
    coordinates: Matrix = u.T @ delta @ vh.T
    return coordinates**2 / np.sum(delta**2)


def block_map(delta: Matrix, weight: Matrix, bins: int) -> Matrix:
    """Return ``squares`` summed over bins × bins blocks of nearly equal count."""
    energy = squares(delta, weight)
    q = len(energy)
    bins = min(bins, q)
    edges = [round(i * q / bins) for i in range(bins + 1)]
    return np.array([[energy[a:b, c:d].sum() for c, d in pairwise(edges)] for a, b in pairwise(edges)])


def diagonal_share(delta: Matrix, weight: Matrix) -> float:
    """Return Σ (u_iᵀ ΔW v_i)²/‖ΔW‖²."""
    return float(np.trace(squares(delta, weight)))


def centroids(delta: Matrix, weight: Matrix) -> tuple[float, float]:
    """Return the mean base index of the left and of the right energy."""
    u, _, vh = np.linalg.svd(weight, full_matrices=False)
    left, right = np.sum((u.T @ delta) ** 2, 1), np.sum((delta @ vh.T) ** 2, 0)
    index = np.arange(len(left))
    return float(index @ left / left.sum()), float(index @ right / right.sum())


def inside_concentrations(delta: Matrix, weight: Matrix) -> tuple[float, float]:
    """Return Σp² of the singular values of UUᵀΔW and of ΔWVVᵀ."""
    u, _, vh = np.linalg.svd(weight, full_matrices=False)
    out = []
    for part in (u.T @ delta, delta @ vh.T):
        energy = np.linalg.svd(part, compute_uv=False) ** 2
        out.append(float(np.sum((energy / energy.sum()) ** 2)))
    return out[0], out[1]


def orthonormal(rng: np.random.Generator, draws: int, size: int, columns: int) -> Matrix:
    """Return draws × size × columns: first columns of Haar matrices."""
    q, r = np.linalg.qr(rng.standard_normal((draws, size, columns)))
    signs: Matrix = np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    return q * signs


def random_coordinates(p: Sequence[float], shape: tuple[int, int], draws: int, seed: int) -> Matrix:
    """Return draws × m × n: squared entries of random orientations of an update with energy shares p."""
    rng = np.random.default_rng(seed)
    left, right = (orthonormal(rng, draws, size, len(p)) for size in shape)
    entries: Matrix = np.einsum("nir,r,njr->nij", left, np.sqrt(p), right)
    return entries**2


def four_moments(values: Matrix) -> tuple[float, float, float, float]:
    """Return mean, standard deviation, skewness and excess kurtosis."""
    return float(values.mean()), float(values.std()), float(stats.skew(values)), float(stats.kurtosis(values))


def beta_moments(a: float, b: float) -> tuple[float, float, float, float]:
    """Return the same of a Beta law."""
    mean, variance, skewness, excess = stats.beta.stats(a, b, moments="mvsk")
    return float(mean), float(np.sqrt(variance)), float(skewness), float(excess)
