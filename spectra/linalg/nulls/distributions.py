"""Distributions of shares under the Haar null, which give p-values that are uniform under it.

A share of many independent terms is near normal; the share of a rank-1 update in one direction concentrates near zero.
The distributions here cover the range between them: Pearson's curve through the first four moments, which is exact (a
Beta) for one direction of energy; a mixture over the strongest direction if two base directions or fewer cannot average
out an uneven spectrum; a product of two such distributions for joint shares, exact for rank 1.
``reports/null_calibration.md`` shows how uniform the p-values are.

A :class:`Distribution` here is a batch of distributions, one per row: the p-values of many matrices cost one call of a
special function per type of curve. :mod:`scipy.special` is called directly, since importing :mod:`scipy.stats` takes
two seconds.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray
from scipy import special

from spectra.linalg.nulls.haar_exact import (
    Moments,
)

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Smallest p-value: further out, a distribution that is matched by moments is not reliable.
RESOLUTION = 1e-9

# Replaces zero in a denominator: far below any share, and its inverse is finite.
_TINY = 1e-60

# A smaller skewness than this moves no p-value by 1e-3.
_SYMMETRIC = 1e-3

# The type VI curve that replaces a type IV curve lies inside the limit of type VI by this factor.
_INSIDE = 1.02

# Standard normal quantiles of the nodes that represent a distribution inside a mixture: they reach beyond RESOLUTION.
_AT = np.linspace(-6.4, 6.4, 65)
_WEIGHTS: Array = np.exp(-(_AT**2) / 2) / np.exp(-(_AT**2) / 2).sum()


class Distribution(ABC):
    """N distributions of one continuous random variable each."""

    @property
    @abstractmethod
    def mean(self) -> Array:
        """Mean of each distribution, (N,)."""

    @abstractmethod
    def tail(self, x: Array, upper: Flags) -> Array:
        """Return P(X > x) where ``upper``, else P(X ≤ x), accurate in relative terms if it is small.

        Parameters
        ----------
        x
            Points at which each distribution is evaluated, N × M.
        upper
            Which tail to take at each point, N × M.
        """

    def cdf(self, x: Array) -> Array:
        """Return P(X ≤ x) for N × M points, or for M points of a single distribution."""
        return self._one_tail(x, upper=False)

    def sf(self, x: Array) -> Array:
        """Return P(X > x), accurate in relative terms if it is small."""
        return self._one_tail(x, upper=True)

    @overload
    def p(self, value: float) -> float: ...
    @overload
    def p(self, value: Array) -> Array: ...
    def p(self, value: float | Array) -> float | Array:
        """Return the two-sided p-value 2·min(P(X ≤ x), P(X > x)): uniform under the null. NaN for NaN.

        Parameters
        ----------
        value
            A number for a single distribution; N × M numbers for N distributions.
        """
        x = np.atleast_2d(np.asarray(value, dtype=np.float64))
        # The tail on the value's side of the mean is the smaller one, or near enough a half to be subtracted from 1.
        found = self.tail(x, x > self.mean[:, None])
        found = np.where(np.isnan(x), np.nan, np.clip(2 * np.minimum(found, 1 - found), RESOLUTION, 1))
        return float(found[0, 0]) if np.ndim(value) == 0 else found

    def _one_tail(self, x: Array, *, upper: bool) -> Array:
        found = self.tail(np.atleast_2d(x), np.full(np.atleast_2d(x).shape, upper))
        return np.asarray(found[0] if x.ndim == 1 else found)


class Inner(Distribution):
    """Distributions that can be a part of another: their nodes give means over them."""

    @abstractmethod
    def node_table(self) -> tuple[Array, Array]:
        """Return points, N × J, and weights, (J,), of a quadrature: Σ weight·f(point) approximates E f(X)."""

    def nodes(self) -> tuple[Array, Array]:
        """Return points and weights of the quadrature of a single distribution."""
        points, weights = self.node_table()
        return points[0], weights


@dataclass(frozen=True)
class _Curve:
    """One type of Pearson's system in its own variable, with positive skewness.

    Attributes
    ----------
    standard
        From its two shape parameters to mean and standard deviation.
    lower, upper
        P(X ≤ x) and P(X > x) of x and the shape parameters.
    lower_quantile, upper_quantile
        Their inverses.
    """

    standard: Callable[[Array, Array], tuple[Array, Array]]
    lower: Callable[[Array, Array, Array], Array]
    upper: Callable[[Array, Array, Array], Array]
    lower_quantile: Callable[[Array, Array, Array], Array]
    upper_quantile: Callable[[Array, Array, Array], Array]


def _odds(unit: Array) -> Array:
    return unit / (1 - unit)


def _unit(odds: Array) -> Array:
    unit: Array = np.maximum(odds, 0) / (1 + np.maximum(odds, 0))
    return unit


_CURVES: Mapping[str, _Curve] = {
    "beta": _Curve(
        lambda a, b: (a / (a + b), np.sqrt(a * b / (a + b + 1)) / (a + b)),
        lambda x, a, b: special.betainc(a, b, np.clip(x, 0, 1)),
        lambda x, a, b: special.betaincc(a, b, np.clip(x, 0, 1)),
        lambda p, a, b: special.betaincinv(a, b, p),
        lambda p, a, b: special.betainccinv(a, b, p),
    ),
    "beta prime": _Curve(
        lambda a, b: (a / (b - 1), np.sqrt(a * (a + b - 1) / (b - 2)) / (b - 1)),
        lambda x, a, b: special.betainc(a, b, _unit(x)),
        lambda x, a, b: special.betaincc(a, b, _unit(x)),
        lambda p, a, b: _odds(special.betaincinv(a, b, p)),
        lambda p, a, b: _odds(special.betainccinv(a, b, p)),
    ),
    "gamma": _Curve(
        lambda a, b: (a, np.sqrt(a)),
        lambda x, a, b: special.gammainc(a, np.maximum(x, 0)),
        lambda x, a, b: special.gammaincc(a, np.maximum(x, 0)),
        lambda p, a, b: special.gammaincinv(a, p),
        lambda p, a, b: special.gammainccinv(a, p),
    ),
    "student": _Curve(
        lambda a, b: (np.zeros_like(a), np.sqrt(a / (a - 2))),
        lambda x, a, b: special.stdtr(a, x),
        lambda x, a, b: special.stdtr(a, -x),
        lambda p, a, b: special.stdtrit(a, p),
        lambda p, a, b: -special.stdtrit(a, p),
    ),
    "normal": _Curve(
        lambda a, b: (np.zeros_like(a), np.ones_like(a)),
        lambda x, a, b: special.ndtr(x),
        lambda x, a, b: special.ndtr(-x),
        lambda p, a, b: special.ndtri(p),
        lambda p, a, b: -special.ndtri(p),
    ),
}


@dataclass(frozen=True)
class Pearson(Inner):
    """Curves of Pearson's system that have given moments (Johnson, Kotz and Balakrishnan 1994, §12.4.1).

    Attributes
    ----------
    moments
        Mean, standard deviation, skewness and excess kurtosis, (N,) each.
    kinds
        Index of each distribution's curve in the table of curves: ``beta`` (type I), ``beta prime`` (VI), ``gamma``
        (III), ``student`` (VII) or ``normal``; −1 if it has no spread or is undefined, and every p-value is NaN.
    first, second
        Shape parameters, NaN where the curve has none.
    """

    moments: Moments
    kinds: Integers
    first: Array
    second: Array

    @classmethod
    def of(cls, moments: Moments) -> "Pearson":
        """Return the curves."""
        with np.errstate(all="ignore"):  # each type's formulas are evaluated on every row
            return cls._matched(replace(moments, **{name: np.atleast_1d(x) for name, x in vars(moments).items()}))

    @classmethod
    def _matched(cls, moments: Moments) -> "Pearson":
        skewness, excess = np.abs(moments.skewness), np.asarray(moments.excess)
        symmetric = skewness < _SYMMETRIC
        b1, b2 = skewness**2, excess + 3
        gap = 6 + 3 * b1 - 2 * b2
        r = 6 * (b2 - b1 - 1) / gap
        # Type IV has no elementary distribution function. Its neighbor replaces it: type VI with almost the largest
        # excess that it has at this skewness.
        r = np.where(r < 0, np.minimum(r, -_INSIDE * (8 + 2 * b1 + 4 * np.sqrt(4 + b1)) / b1), r)
        root = (r + 2) * np.sqrt(b1 / (b1 * (r + 2) ** 2 + 16 * (r + 1)))
        none = np.full_like(gap, np.nan)
        types: dict[str, tuple[Flags, Array, Array]] = {
            "": (~((np.asarray(moments.sd) > 0) & np.isfinite(excess)), none, none),
            "normal": (symmetric & (np.abs(excess) < 1e-6), none, none),
            "student": (symmetric & (excess > 0), 4 + 6 / excess, none),
            "gamma": (np.abs(gap) < 1e-6, 4 / b1, none),
            "beta": (r > 0, r / 2 * (1 - root), r / 2 * (1 + root)),
            "beta prime": (np.isfinite(gap), r / 2 * (1 + root), 1 - r),
        }
        met = [found[0] for found in types.values()]
        first, second = (np.select(met, [found[at] for found in types.values()]) for at in (1, 2))
        places = [list(_CURVES).index(name) if name else -1 for name in types]
        return cls(moments, np.select(met, places, default=-1), first, second)

    @property
    def kind(self) -> str:
        """The type of a single curve."""
        return list(_CURVES)[int(self.kinds[0])]

    @property
    def mean(self) -> Array:
        """Mean of each distribution."""
        return np.asarray(self.moments.mean)

    def tail(self, x: Array, upper: Flags) -> Array:
        """Return one tail of each distribution at each point."""
        negative = self._negative
        with np.errstate(all="ignore"):  # what has no spread divides by zero and is NaN
            z = (x - self.mean[:, None]) / np.asarray(self.moments.sd)[:, None]
        wanted = upper ^ negative
        out = np.full(x.shape, np.nan)
        for curve, chosen, center, scale, shapes in self._curves():
            for tail, side in ((curve.lower, ~wanted), (curve.upper, wanted)):
                at = chosen[:, None] & side
                raw = (center + scale * np.where(negative, -z, z))[at]
                out[at] = tail(raw, *(np.broadcast_to(shape, at.shape)[at] for shape in shapes))
        return out

    def node_table(self) -> tuple[Array, Array]:
        """Return quantiles at equal steps of the standard normal quantile."""
        return self._nodes, _WEIGHTS

    @cached_property
    def _nodes(self) -> Array:
        negative = self._negative
        at = np.where(negative, -_AT, _AT)
        z = np.full(at.shape, np.nan)
        for curve, chosen, center, scale, shapes in self._curves():
            for quantile, side in ((curve.lower_quantile, at < 0), (curve.upper_quantile, at >= 0)):
                here = chosen[:, None] & side
                raw = quantile(special.ndtr(-np.abs(at[here])), *(np.broadcast_to(s, at.shape)[here] for s in shapes))
                z[here] = (raw - np.broadcast_to(center, at.shape)[here]) / np.broadcast_to(scale, at.shape)[here]
        nodes: Array = self.mean[:, None] + np.asarray(self.moments.sd)[:, None] * np.where(negative, -z, z)
        return nodes

    @property
    def _negative(self) -> Flags:
        return (np.asarray(self.moments.skewness) < 0)[:, None]

    def _curves(self) -> list[tuple[_Curve, Flags, Array, Array, tuple[Array, Array]]]:
        """Return the curves that occur: which rows they are, and mean, sd and shapes of every row in their terms."""
        shapes = self.first[:, None], self.second[:, None]
        found = []
        for place, curve in enumerate(_CURVES.values()):
            chosen = self.kinds == place
            if chosen.any():
                with np.errstate(all="ignore"):  # rows of other curves
                    found.append((curve, chosen, *curve.standard(*shapes), shapes))
        return found


@dataclass(frozen=True)
class StrongestAndRest(Inner):
    """s·H + (1 − s)(1 − H/k)·R for independent H and R: a strongest direction, and the rest beside it.

    Attributes
    ----------
    head, rest
        Distributions of H and R.
    share
        s, the energy of the strongest direction, (N,).
    k
        Number of base directions, (N,).
    head_is_wider
        Whether s·H spreads more than (1 − s)·R: nodes represent the narrower of the two,
        where their steps matter less.
    """

    head: Inner
    rest: Inner
    share: Array
    k: Integers
    head_is_wider: bool

    @property
    def mean(self) -> Array:
        """Mean of each distribution."""
        return self.share * self.head.mean + (1 - self.share) * (1 - self.head.mean / self.k) * self.rest.mean

    def tail(self, x: Array, upper: Flags) -> Array:
        """Return one tail of each distribution, the mean over the nodes of the narrower of both parts."""
        share, k = self.share[:, None, None], self.k[:, None, None]
        points, weights = (self.rest if self.head_is_wider else self.head).node_table()
        points = points[:, None, :]
        if self.head_is_wider:
            rests = (1 - share) * points
            # (1 − s)R ≤ k·s, since no direction is stronger than the head; a matched R may overshoot.
            return _averaged(
                self.head, (x[:, :, None] - rests) / np.maximum(share - rests / k, RESOLUTION), weights, upper
            )
        scale = (1 - share) * (1 - points / k)
        return _averaged(self.rest, (x[:, :, None] - share * points) / scale, weights, upper)

    def node_table(self) -> tuple[Array, Array]:
        """Return the nodes of both, combined."""
        heads, head_weights = _halved(self.head)
        rests, rest_weights = _halved(self.rest)
        share = self.share[:, None, None]
        scale = (1 - share) * (1 - heads[:, :, None] / self.k[:, None, None])
        points = share * heads[:, :, None] + scale * rests[:, None, :]
        weights = np.asarray(np.outer(head_weights, rest_weights).ravel(), dtype=np.float64)
        return points.reshape(len(points), -1), weights


@dataclass(frozen=True)
class ProductDistribution(Distribution):
    """Distribution of the product of two independent positive random variables.

    Attributes
    ----------
    first, second
        Distributions of the two.
    """

    first: Inner
    second: Distribution

    @property
    def mean(self) -> Array:
        """Mean of each distribution."""
        return self.first.mean * self.second.mean

    def tail(self, x: Array, upper: Flags) -> Array:
        """Return one tail of each distribution, the mean over the first of the second's at x/first."""
        points, weights = self.first.node_table()
        return _averaged(self.second, x[:, :, None] / np.maximum(points, _TINY)[:, None, :], weights, upper)


@dataclass(frozen=True)
class Either(Distribution):
    """Distributions of several forms in one batch.

    Attributes
    ----------
    parts
        The rows of each form, and their distributions.
    """

    parts: Sequence[tuple[Flags, Distribution]]

    @property
    def mean(self) -> Array:
        """Mean of each distribution."""
        out = np.empty(len(self.parts[0][0]))
        for rows, distribution in self.parts:
            out[rows] = distribution.mean
        return out

    def tail(self, x: Array, upper: Flags) -> Array:
        """Return one tail of each distribution at each point."""
        out = np.empty(x.shape)
        for rows, distribution in self.parts:
            out[rows] = distribution.tail(x[rows], upper[rows])
        return out


def _averaged(distribution: Distribution, x: Array, weights: Array, upper: Flags) -> Array:
    """Return the mean over nodes of one tail of a distribution: x is N × M × J, the weights are (J,)."""
    flat = x.reshape(len(x), -1)
    found = distribution.tail(flat, np.repeat(upper, len(weights), axis=1))
    return found.reshape(x.shape) @ weights


def _halved(distribution: Inner) -> tuple[Array, Array]:
    """Return every second node, enough where the nodes of two distributions are combined."""
    points, weights = distribution.node_table()
    return points[:, ::2], weights[::2] / weights[::2].sum()
