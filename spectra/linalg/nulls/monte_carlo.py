"""Compare a value with draws of a null: expectation, spread, interval and p-value, from few or many draws."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from spectra.linalg.nulls.distributions import RESOLUTION

# With at least this many draws, p-value and interval come from ranks; a rank among fewer cannot tell 1 % from 10 %.
RANKED = 99

_TAIL = 0.025

# Replaces zero in a logarithm.
_TINY = 1e-300


@dataclass(frozen=True)
class NullComparison:
    """A value compared with its null.

    Attributes
    ----------
    value, expected, sd
        The value, and the mean and standard deviation of the null.
    lo, hi
        The null's 2.5 % and 97.5 % quantiles.
    z
        (value − expected)/sd, NaN if the null has no spread. With n draws its variance under the null is
        (n² − 1)/(n(n − 3)), 1.6 for eight.
    p
        Two-sided p-value.
    draws
        Number of draws; 0 for a null in closed form.
    """

    value: float
    expected: float
    sd: float
    lo: float
    hi: float
    z: float
    p: float
    draws: int


def compare_with_draws(
    value: float, draws: NDArray[np.float64], *, discrete: bool = False, log_normal: bool = False
) -> NullComparison:
    """Compare a value with draws of its null.

    With :data:`RANKED` draws or more, p is 2·min((1 + #{draws ≤ value})/(n + 1), (1 + #{draws ≥ value})/(n + 1)), at
    most 1, which is valid for every distribution. With fewer, value and draws, or their logarithms, are taken as
    normal: (value − mean)/(sd·√(1 + 1/n)) then has exactly Student's t distribution with n − 1 degrees of freedom,
    which also gives the ends of the interval. z always refers to the values themselves.

    Parameters
    ----------
    value
        The value; NaN gives NaN.
    draws
        At least two draws of the same statistic under the null. NaN draws, where the statistic is undefined, are left
        out.
    discrete
        Whether the statistic is a count: p then comes from ranks for any number of draws.
    log_normal
        Whether few draws are taken as log-normal: for positive, right-skewed statistics.
    """
    kept = draws[~np.isnan(draws)]
    count = len(kept)
    if count < 2 or math.isnan(value):
        return NullComparison(value, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, count)
    mean, sd = float(kept.mean()), float(kept.std(ddof=1))
    # Draws that are equal up to rounding have no spread.
    sd = sd if sd > 1e-12 * abs(mean) else 0.0
    z = (value - mean) / sd if sd > 0 else math.nan
    if discrete or count >= RANKED or sd == 0:
        lo, hi = (float(q) for q in np.quantile(kept, (_TAIL, 1 - _TAIL)))
        return NullComparison(value, mean, sd, lo, hi, z, _rank_p(value, kept, tie=1e-12 * abs(mean)), count)
    if log_normal:
        lo, hi, p = _student(math.log(max(value, _TINY)), np.log(np.maximum(kept, _TINY)))
        lo, hi = math.exp(lo), math.exp(hi)
    else:
        lo, hi, p = _student(value, kept)
    return NullComparison(value, mean, sd, lo, hi, z, p, count)


def compare_with_normal(value: float, mean: float, sd: float, *, step: float = 0.0) -> NullComparison:
    """Compare a value with a near-normal null of known mean and standard deviation.

    Parameters
    ----------
    value, mean, sd
        The value and the moments of its null; NaN, or a zero spread, gives a p-value of NaN.
    step
        Spacing of the values that a discrete statistic can take: half of it is subtracted from |value − mean|, so that
        p is conservative.
    """
    if not sd > 0 or math.isnan(value):
        return NullComparison(value, mean, sd, math.nan, math.nan, math.nan, math.nan, 0)
    half = float(special.ndtri(1 - _TAIL)) * sd
    beyond = max(abs(value - mean) - step / 2, 0.0) / sd
    p = max(2 * float(special.ndtr(-beyond)), RESOLUTION)
    return NullComparison(value, mean, sd, mean - half, mean + half, (value - mean) / sd, p, 0)


def _student(value: float, draws: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the ends of Student's 95 % prediction interval of one more draw, and the value's p under it."""
    count, mean = len(draws), float(draws.mean())
    spread = float(draws.std(ddof=1)) * math.sqrt(1 + 1 / count)
    half = float(special.stdtrit(count - 1, 1 - _TAIL)) * spread
    p = max(2 * float(special.stdtr(count - 1, -abs(value - mean) / spread)), RESOLUTION)
    return mean - half, mean + half, p


def _rank_p(value: float, draws: NDArray[np.float64], tie: float) -> float:
    below, above = int((draws <= value + tie).sum()), int((draws >= value - tie).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (len(draws) + 1))
