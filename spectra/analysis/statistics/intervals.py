"""Intervals of means: over the layers of a model by resampling them, over seeds by Student's t."""

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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


@lru_cache
def student_quantile(degrees: int) -> float:
    """Return the quantile of Student's t that leaves 2.5 % above it.

    >>> round(student_quantile(3), 3)
    3.182
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + _CONFIDENCE) / 2))


@lru_cache
def _draws(clusters: int) -> Numbers:
    """Return how often each resample draws each cluster, resamples × clusters: the same for every metric."""
    shares = np.full(clusters, 1 / clusters)
    return np.random.default_rng([_SEED, clusters]).multinomial(clusters, shares, size=RESAMPLES).astype(np.float64)
