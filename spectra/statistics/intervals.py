"""95 % intervals: of means over layers (bootstrap), of means over seeds and of paired differences (Student), of shares.

Tables and arrays in, numbers out: nothing here knows a model, a run or a plot, and nothing needs torch.
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
# Two clusters give a t with one degree of freedom, and no idea of the spread.
FEWEST_CLUSTERS = 3
_SEED = 0
_CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean with its 95 % interval; NaN ends where there is too little to say."""

    value: float
    lo: float
    hi: float

    def within(self, least: float, most: float) -> "Interval":
        """Return the interval cut to what is possible."""
        if math.isnan(self.lo):
            return self
        return Interval(self.value, max(self.lo, least), min(self.hi, most))


class Paired(NamedTuple):
    """A mean difference over the same problems with its 95 % interval; NaN for fewer than two problems.

    Attributes
    ----------
    problems
        How many problems both sides have.
    difference, low, high
        Mean of a − b, and Student's interval of it.
    z
        The mean in standard errors. For equal methods it has Student's t with problems − 1 degrees of freedom: near a
        standard normal from some 30 problems on.
    """

    problems: float
    difference: float
    low: float
    high: float
    z: float


def layer_interval(
    values: Sequence[float] | Numbers, clusters: Sequence[Hashable], weights: Numbers | None = None
) -> Interval:
    """Return a mean over matrices with an interval from a bootstrap that draws whole clusters.

    Matrices of a layer go together: they see the same activations and gradients, and are not independent. The interval
    is value ± t·s: s is the bootstrap's standard deviation times √(C/(C − 1)), since resamples of C clusters vary by
    that much too little, and t the 97.5 % quantile with C − 1 degrees of freedom. Quantiles of the resamples
    themselves cover 75 % where C = 3 and 86 % where C = 6; this covers 95 % of normal means from C = 3 on (Hesterberg
    2015, *What Teachers Should Know About the Bootstrap*, §5).

    Parameters
    ----------
    values
        One a matrix, finite.
    clusters
        The cluster of each matrix; under ``FEWEST_CLUSTERS`` distinct ones the ends are NaN.
    weights
        What the values are means over: the mean is Σ values·weights/Σ weights. Equal if None.
    """
    numbers = np.asarray(values, np.float64)
    weight = np.ones_like(numbers) if weights is None else weights
    codes = pd.factorize(np.asarray(clusters, dtype=object))[0]
    value = float((numbers * weight).sum() / weight.sum()) if len(numbers) else math.nan
    count = int(codes.max()) + 1 if len(codes) else 0
    if count < FEWEST_CLUSTERS:
        return Interval(value, math.nan, math.nan)
    # Centred, so that the spread of nearly equal values is not that of their rounding.
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
    """Return the mean difference a − b over the problems that both have, with Student's 95 % interval.

    Pairing removes the problems' own difficulty from the error: se = sd(a_i − b_i)/√n.

    Parameters
    ----------
    a, b
        Score of each problem, by the problem's name.
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

    It stays an interval where every problem is right or wrong. With several samples per problem the mean varies less
    than one trial per problem would, and the interval is wide rather than narrow: there ``count`` may be an effective
    number of problems, which is no integer. ``scipy.stats`` has this interval for integer counts alone.

    Parameters
    ----------
    share
        Mean over problems, in [0, 1].
    count
        Problems, or the effective number of them.
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
    """Return the quantile of Student's t that leaves 2.5 % above it.

    ``scipy.stats.t.ppf`` calls the same function, and takes a second to import.

    >>> round(student_quantile(3), 3)
    3.182
    """
    return float(stdtrit(degrees, (1 + _CONFIDENCE) / 2))


@lru_cache
def _draws(clusters: int) -> Numbers:
    """Return how often each resample draws each cluster, resamples × clusters: the same for every metric."""
    shares = np.full(clusters, 1 / clusters)
    return np.random.default_rng([_SEED, clusters]).multinomial(clusters, shares, size=RESAMPLES).astype(np.float64)
