"""95 % intervals: means over layers (bootstrap), means over seeds and paired differences (Student), shares (Wilson).

Functions of tables and arrays; independent of models, runs and plots, and of torch.
"""

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from spectra.linalg.nulls.haar_moments import NORMAL_95

Numbers = NDArray[np.float64]

RESAMPLES = 4000
# Two clusters give a t with one degree of freedom, which does not estimate the spread.
MIN_CLUSTERS = 3
_SEED = 0
_CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean with its 95 % interval; the ends are NaN if there are too few values."""

    value: float
    lo: float
    hi: float

    def within(self, least: float, most: float) -> "Interval":
        """Return the interval clipped to [least, most]."""
        if math.isnan(self.lo):
            return self
        return Interval(self.value, max(self.lo, least), min(self.hi, most))


class Paired(NamedTuple):
    """A mean difference over the same problems with its 95 % interval; NaN for fewer than two problems.

    Attributes
    ----------
    problems
        Number of problems that both sides have.
    difference, low, high
        Mean of a − b, with Student's interval.
    z
        The mean in standard errors. For equal methods it has Student's t distribution with problems − 1 degrees of
        freedom, near standard normal from about 30 problems on.
    """

    problems: float
    difference: float
    low: float
    high: float
    z: float


def layer_interval(
    values: Sequence[float] | Numbers, clusters: Sequence[Hashable], weights: Numbers | None = None
) -> Interval:
    """Return a mean over matrices with an interval from a cluster bootstrap over layers.

    Matrices of a layer are drawn together: they see the same activations and gradients, and are not independent. The
    interval is value ± t·s: s is the bootstrap's standard deviation times √(C/(C − 1)), since resamples of C clusters
    vary too little by that factor, and t the 97.5 % quantile with C − 1 degrees of freedom. Quantiles of the resamples
    themselves cover 75 % for C = 3 and 86 % for C = 6; this covers 95 % of normal means from C = 3 on (Hesterberg
    2015, *What Teachers Should Know About the Bootstrap*, §5).

    Parameters
    ----------
    values
        One value per matrix, finite.
    clusters
        Cluster of each matrix; with fewer than ``MIN_CLUSTERS`` distinct ones the ends are NaN.
    weights
        Weight of each value: the mean is Σ values·weights/Σ weights. Equal weights if None.
    """
    numbers = np.asarray(values, np.float64)
    weight = np.ones_like(numbers) if weights is None else weights
    codes = pd.factorize(np.asarray(clusters, dtype=object))[0]
    value = float((numbers * weight).sum() / weight.sum()) if len(numbers) else math.nan
    count = int(codes.max()) + 1 if len(codes) else 0
    if count < MIN_CLUSTERS:
        return Interval(value, math.nan, math.nan)
    # Centered, so that the spread of nearly equal values is not that of their rounding.
    above, below = np.bincount(codes, (numbers - value) * weight), np.bincount(codes, weight)
    drawn = _draws(count)
    spread = float(((drawn @ above) / (drawn @ below)).std(ddof=1)) * math.sqrt(count / (count - 1))
    half = student_quantile(count - 1) * spread
    return Interval(value, value - half, value + half)


def seed_interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent runs with Student's 95 % interval; NaN ends for a single run."""
    known = np.array([value for value in values if math.isfinite(value)])
    if len(known) < 2:
        return Interval(float(known[0]) if len(known) else math.nan, math.nan, math.nan)
    mean, error = float(known.mean()), float(known.std(ddof=1)) / math.sqrt(len(known))
    half = student_quantile(len(known) - 1) * error
    return Interval(mean, mean - half, mean + half)


def paired(a: "pd.Series[float]", b: "pd.Series[float]") -> Paired:
    """Return the mean difference a − b over the problems in both, with Student's 95 % interval.

    Pairing removes the difficulty of the problems from the error: se = sd(a_i − b_i)/√n.

    Parameters
    ----------
    a, b
        Score per problem, by problem id.
    """
    difference = (a - b).dropna()
    mean, low, high = seed_interval(difference.tolist())
    if len(difference) < 2:
        return Paired(float(len(difference)), math.nan, math.nan, math.nan, math.nan)
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    z = mean / error if error > 0 else (0.0 if mean == 0 else math.copysign(math.inf, mean))
    return Paired(float(len(difference)), mean, low, high, z)


def wilson(share: float, count: int | float, quantile: float = NORMAL_95) -> tuple[float, float]:
    """Return the interval of a share over ``count`` problems (Wilson 1927), within [0, 1].

    It has a positive width even if every problem is right or wrong. With several samples per problem the mean varies
    less than with one trial per problem, and the interval is too wide rather than too narrow; ``count`` may then be an
    effective number of problems, which need not be an integer. ``scipy.stats`` has this interval for integers only.

    Parameters
    ----------
    share
        Mean over problems, in [0, 1].
    count
        Number of problems, or the effective number.
    quantile
        Half-width in standard errors: 1.96, or Student's.

    >>> tuple(round(bound, 3) for bound in wilson(0.99, 100))
    (0.946, 0.998)
    """
    square = quantile**2
    center = (share + square / (2 * count)) / (1 + square / count)
    half = quantile * math.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return max(0.0, center - half), min(1.0, center + half)


@lru_cache
def student_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution.

    ``scipy.stats.t.ppf`` calls the same function, but takes a second to import.

    >>> round(student_quantile(3), 3)
    3.182
    """
    return float(stdtrit(degrees, (1 + _CONFIDENCE) / 2))


@lru_cache
def _draws(clusters: int) -> Numbers:
    """Return how often each resample draws each cluster, resamples × clusters: the same for every metric."""
    shares = np.full(clusters, 1 / clusters)
    return np.random.default_rng([_SEED, clusters]).multinomial(clusters, shares, size=RESAMPLES).astype(np.float64)
