"""Tail exponents of a spectrum: whether a few singular values are far larger than the rest.

Both exponents describe the same tail: where P(σ > x) ~ x^(−h), the density of λ = σ² falls as λ^(−α), α = 1 + h/2.
Neither has a null in closed form, and an i.i.d. Gaussian update, which has no heavy tail, still gives numbers.
"""

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from spectra.linalg.decompositions.spectrum import numerical_rank

Sigma = Float64[Tensor, " r"]

# With fewer values the exponent is mostly noise: its standard error is (α − 1)/√n, n counting those above the cutoff.
LEAST_VALUES = 50

# Fewest values above a candidate cutoff, as in `powerlaw`: two points do not determine a distribution.
_LEAST_TAIL = 3


class PowerLaw(NamedTuple):
    """A fitted exponent and the number of values in the fit."""

    alpha: float
    values: int


class Tail(NamedTuple):
    """Tail exponents of one spectrum, and the number of non-zero singular values they come from."""

    hill: float
    alpha: float
    values: int


def tail(sigma: Sigma, rows: int, columns: int) -> Tail:
    """Return both tail exponents of the singular values of a ``rows`` × ``columns`` update.

    Singular values below the rank tolerance are rounding and are left out; ``values`` counts the rest. The Hill
    exponent needs 2 values, α needs 50. For ΔW = 0 both are NaN and ``values`` is 0.
    """
    kept = sigma[: numerical_rank(sigma, rows, columns)]
    return Tail(hill(kept), *power_law(kept))


def hill(sigma: Sigma, k: int | None = None) -> float:
    """Return the Hill exponent of the largest singular values, [1/(k − 1) Σ_{i<k} ln(σ_i/σ_k)]⁻¹.

    Range 0 to ∞; a small exponent means a heavy tail; standard error about its value/√(k − 1). Values drawn from
    P(σ > x) = x^(−h) give h. NaN if k is under 2 or above the number of values, if σ_k = 0, and if the k values are
    equal, which is no tail (Hill 1975; on σ as in arXiv 2606.07082).

    Parameters
    ----------
    sigma
        Singular values, descending.
    k
        Number of values in the tail; half of all by default, the choice of PL_Alpha_Hill (arXiv 2312.00359).
    """
    k = max(2, len(sigma) // 2) if k is None else k
    if not 2 <= k <= len(sigma) or float(sigma[k - 1]) <= 0:
        return math.nan
    total = float(torch.log(sigma[: k - 1] / sigma[k - 1]).sum())
    return (k - 1) / total if total > 0 else math.nan


def power_law(sigma: Sigma) -> PowerLaw:
    """Return the exponent α of a power law fitted to the eigenvalues σ², as WeightWatcher defines it.

    The density is p(λ) ~ λ^(−α) above a cutoff λ_min: the eigenvalue whose maximum-likelihood fit is closest, in
    Kolmogorov-Smirnov distance, to the eigenvalues above it (Clauset, Shalizi and Newman 2009). Range 1 to ∞;
    WeightWatcher reads 2 to 6 as well trained, for full weights and not for updates. NaN for fewer than 50 values, and
    if they are equal.

    Parameters
    ----------
    sigma
        Singular values above the rank tolerance, descending.
    """
    values = len(sigma)
    if values < LEAST_VALUES:
        return PowerLaw(math.nan, values)
    # α does not depend on scale, and squares of a small update could underflow.
    eigenvalues = ((sigma / sigma[0]) ** 2).flip(0).cpu().numpy()
    cutoff = _cutoff(eigenvalues)
    return PowerLaw(math.nan if cutoff is None else _alpha_above(eigenvalues, cutoff), values)


def _alpha_above(values: NDArray[np.float64], cutoff: float) -> float:
    import powerlaw

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations among the library's own attributes
        # Its default range ends at α = 3, where the fit would stop.
        fit = powerlaw.Fit(values, xmin=cutoff, parameter_ranges={"alpha": [1, None]}, verbose=0)
        return float(fit.power_law.alpha)


def _cutoff(values: NDArray[np.float64]) -> float | None:
    """Return the cutoff of the best fit, None if there is none; ``values`` ascend.

    `powerlaw` finds it too, but with an object and, above α = 3, a numerical minimization per candidate: 2 s for 1,536
    values, where closed forms take hundredths of a second.
    """
    logs = np.log(values)
    best, cutoff = math.inf, None
    # For each candidate, the sum of ln(λ_j/λ_min) over the values from it on.
    above = np.cumsum(logs[::-1])[::-1] - logs * np.arange(len(logs), 0, -1)
    for start in range(len(logs) - _LEAST_TAIL + 1):
        count = len(logs) - start
        if above[start] <= 0 or (start and values[start] == values[start - 1]):
            continue
        exponent = count / above[start]
        fitted = -np.expm1(-exponent * (logs[start:] - logs[start]))
        distance = float(np.abs(fitted - np.arange(count) / count).max())
        if distance < best:
            best, cutoff = distance, float(values[start])
    return cutoff
