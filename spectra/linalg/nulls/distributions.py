"""Distributions of shares under the Haar null, which give p-values that are uniform under it.

A share of many independent terms is near normal; the share of a rank-1 update in one direction concentrates near zero.
The distributions here cover the range between them: Pearson's curve through the first four moments, which is exact (a
Beta) for one direction of energy; a mixture over the strongest direction if two base directions or fewer cannot average
out an uneven spectrum; a product of two such distributions for joint shares, exact for rank 1.
``reports/null_calibration.md`` shows how uniform the p-values are.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from spectra.linalg.nulls.haar_exact import (
    FULL_SIDE,
    Moments,
    Powers,
    centered_moments,
    diagonal_moments,
    relative_moments,
)

Array = NDArray[np.floating[Any]]

# Smallest p-value: further out, a distribution that is matched by moments is not reliable.
RESOLUTION = 1e-9

# Replaces zero in a denominator: far below any share, and its inverse is finite.
_TINY = 1e-60

# A smaller skewness than this moves no p-value by 1e-3.
_SYMMETRIC = 1e-3

# The type VI curve that replaces a type IV curve lies inside the limit of type VI by this factor.
_INSIDE = 1.02

# With at most this many base directions the terms of an uneven spectrum do not average out, and four moments are not
# enough.
_FEW = 2

# Standard normal quantiles of the nodes that represent a distribution inside a mixture: they reach beyond RESOLUTION.
_AT = np.linspace(-6.4, 6.4, 65)
_WEIGHTS: Array = np.exp(-(_AT**2) / 2) / np.exp(-(_AT**2) / 2).sum()


class Distribution(ABC):
    """Distribution of one continuous random variable."""

    @abstractmethod
    def cdf(self, x: Array) -> Array:
        """Return P(X ≤ x)."""

    @abstractmethod
    def sf(self, x: Array) -> Array:
        """Return P(X > x), accurate in relative terms if it is small."""

    @abstractmethod
    def nodes(self) -> tuple[Array, Array]:
        """Return points and weights of a quadrature: Σ weight·f(point) approximates E f(X)."""

    def p(self, value: float) -> float:
        """Return the two-sided p-value 2·min(P(X ≤ x), P(X > x)): uniform under the null. NaN for NaN."""
        if math.isnan(value):
            return math.nan
        at = np.array([value])
        smaller = float(np.minimum(self.cdf(at), self.sf(at))[0])
        return min(1.0, max(2 * smaller, RESOLUTION)) if not math.isnan(smaller) else math.nan


class Undefined(Distribution):
    """Distribution without spread, or undefined: every p-value is NaN."""

    def cdf(self, x: Array) -> Array:
        """Return NaN."""
        return np.full_like(x, math.nan)

    def sf(self, x: Array) -> Array:
        """Return NaN."""
        return np.full_like(x, math.nan)

    def nodes(self) -> tuple[Array, Array]:
        """Return one NaN."""
        return np.array([math.nan]), np.array([1.0])


@dataclass(frozen=True)
class Pearson(Distribution):
    """The curve of Pearson's system with given moments (Johnson, Kotz and Balakrishnan 1994, §12.4.1).

    Attributes
    ----------
    moments
        Mean, standard deviation, skewness and excess kurtosis.
    kind
        ``beta`` (type I), ``beta prime`` (VI), ``gamma`` (III), ``student`` (VII) or ``normal``.
    shape
        Its shape parameters.
    """

    moments: Moments
    kind: str
    shape: tuple[float, ...]

    @classmethod
    def of(cls, moments: Moments) -> "Distribution":
        """Return the curve, or :class:`Undefined` if there is no spread."""
        skewness, excess = abs(moments.skewness), moments.excess
        if not (moments.sd > 0 and math.isfinite(excess)):
            return Undefined()
        if skewness < _SYMMETRIC and abs(excess) < 1e-6:
            return cls(moments, "normal", ())
        if skewness < _SYMMETRIC and excess > 0:
            return cls(moments, "student", (4 + 6 / excess,))
        b1, b2 = skewness**2, excess + 3
        gap = 6 + 3 * b1 - 2 * b2
        if abs(gap) < 1e-6:
            return cls(moments, "gamma", (4 / b1,))
        r = 6 * (b2 - b1 - 1) / gap
        if r < 0:
            # Type IV has no elementary distribution function. Its neighbor replaces it: type VI with almost the largest
            # excess that it has at this skewness.
            r = min(r, -_INSIDE * (8 + 2 * b1 + 4 * math.sqrt(4 + b1)) / b1)
        discriminant = b1 * (r + 2) ** 2 + 16 * (r + 1)
        root = (r + 2) * math.sqrt(b1 / discriminant)
        if r > 0:
            return cls(moments, "beta", (r / 2 * (1 - root), r / 2 * (1 + root)))
        return cls(moments, "beta prime", (r / 2 * (1 + root), 1 - r))

    def cdf(self, x: Array) -> Array:
        """Return P(X ≤ x)."""
        return self._tail(x, upper=self.moments.skewness < 0)

    def sf(self, x: Array) -> Array:
        """Return P(X > x)."""
        return self._tail(x, upper=self.moments.skewness >= 0)

    def nodes(self) -> tuple[Array, Array]:
        """Return quantiles at equal steps of the standard normal quantile."""
        center, scale = self._standard()
        at = _AT if self.moments.skewness >= 0 else -_AT
        raw = (self._quantile(at) - center) / scale
        z = raw if self.moments.skewness >= 0 else -raw
        return self.moments.mean + self.moments.sd * z, _WEIGHTS

    def _standard(self) -> tuple[float, float]:
        """Return mean and standard deviation of the curve in its own variable."""
        if self.kind == "beta":
            a, b = self.shape
            return a / (a + b), math.sqrt(a * b / (a + b + 1)) / (a + b)
        if self.kind == "beta prime":
            a, b = self.shape
            return a / (b - 1), math.sqrt(a * (a + b - 1) / (b - 2)) / (b - 1)
        if self.kind == "gamma":
            return self.shape[0], math.sqrt(self.shape[0])
        return 0.0, math.sqrt(self.shape[0] / (self.shape[0] - 2)) if self.kind == "student" else 1.0

    def _tail(self, x: Array, upper: bool) -> Array:
        """Return the lower or the upper tail of the curve with positive skewness."""
        center, scale = self._standard()
        z = (x - self.moments.mean) / self.moments.sd
        raw = center + scale * (z if self.moments.skewness >= 0 else -z)
        out: Any
        if self.kind == "gamma":
            raw = np.maximum(raw, 0)
            out = special.gammaincc(*self.shape, raw) if upper else special.gammainc(*self.shape, raw)
        elif self.kind in ("beta", "beta prime"):
            raw = np.maximum(raw, 0)
            unit = np.minimum(raw, 1) if self.kind == "beta" else raw / (1 + raw)
            out = special.betaincc(*self.shape, unit) if upper else special.betainc(*self.shape, unit)
        else:
            raw = -raw if upper else raw
            out = special.stdtr(*self.shape, raw) if self.kind == "student" else special.ndtr(raw)
        return np.asarray(out, dtype=np.float64)

    def _quantile(self, at: Array) -> Array:
        lower, upper = special.ndtr(at), special.ndtr(-at)
        out: Any
        if self.kind == "gamma":
            out = np.where(at < 0, special.gammaincinv(*self.shape, lower), special.gammainccinv(*self.shape, upper))
        elif self.kind in ("beta", "beta prime"):
            unit = np.where(at < 0, special.betaincinv(*self.shape, lower), special.betainccinv(*self.shape, upper))
            out = unit if self.kind == "beta" else unit / (1 - unit)
        else:
            out = special.stdtrit(*self.shape, lower) if self.kind == "student" else at
        return np.asarray(out, dtype=np.float64)


@dataclass(frozen=True)
class StrongestAndRest(Distribution):
    """Distribution of s·H + (1 − s)(1 − H/k)·R for independent H and R: the strongest direction and the rest.

    Attributes
    ----------
    head, rest
        Distributions of H and R.
    share
        s, the energy of the strongest direction.
    k
        Number of base directions.
    head_is_wider
        Whether s·H spreads more than (1 − s)·R: nodes represent the narrower of the two, where their steps matter less.
    """

    head: Distribution
    rest: Distribution
    share: float
    k: int
    head_is_wider: bool

    def cdf(self, x: Array) -> Array:
        """Return P(X ≤ x), the mean over the nodes of the narrower part."""
        inner, at, weights = self._given_narrower(x)
        return inner.cdf(at) @ weights

    def sf(self, x: Array) -> Array:
        """Return P(X > x) the same way."""
        inner, at, weights = self._given_narrower(x)
        return inner.sf(at) @ weights

    def nodes(self) -> tuple[Array, Array]:
        """Return the nodes of both, combined."""
        heads, head_weights = _halved(self.head)
        rests, rest_weights = _halved(self.rest)
        scale = (1 - self.share) * (1 - heads / self.k)
        points: Array = self.share * heads[:, None] + scale[:, None] * rests
        weights: Array = np.outer(head_weights, rest_weights)
        return points.ravel(), weights.ravel()

    def _given_narrower(self, x: Array) -> tuple[Distribution, Array, Array]:
        """Return the wider part's distribution, where to evaluate it, and the weights of the narrower's nodes."""
        if self.head_is_wider:
            rests, weights = self.rest.nodes()
            rests = (1 - self.share) * rests
            # (1 − s)R ≤ k·s, since no direction is stronger than the head; a matched R may overshoot.
            return self.head, (x[:, None] - rests) / np.maximum(self.share - rests / self.k, RESOLUTION), weights
        heads, weights = self.head.nodes()
        scale = (1 - self.share) * (1 - heads / self.k)
        return self.rest, (x[:, None] - self.share * heads) / scale, weights


@dataclass(frozen=True)
class ProductDistribution(Distribution):
    """Distribution of the product of two independent positive random variables.

    Attributes
    ----------
    first, second
        Distributions of the two.
    """

    first: Distribution
    second: Distribution

    def cdf(self, x: Array) -> Array:
        """Return the mean over the first of P(second ≤ x/first)."""
        points, weights = self.first.nodes()
        return self.second.cdf(x[:, None] / np.maximum(points, _TINY)) @ weights

    def sf(self, x: Array) -> Array:
        """Return the mean over the first of P(second > x/first)."""
        points, weights = self.first.nodes()
        return self.second.sf(x[:, None] / np.maximum(points, _TINY)) @ weights

    def nodes(self) -> tuple[Array, Array]:
        """Return the nodes of both, combined."""
        one, one_weights = _halved(self.first)
        two, two_weights = _halved(self.second)
        points: Array = np.outer(one, two)
        weights: Array = np.outer(one_weights, two_weights)
        return points.ravel(), weights.ravel()


def powers_of(shares: Sequence[float] | Array) -> Powers:
    """Return (Σp², Σp³, Σp⁴) of energy shares."""
    p = np.asarray(shares, dtype=np.float64)
    return float((p**2).sum()), float((p**3).sum()), float((p**4).sum())


def share_distribution(k: int, dim: int, shares: Sequence[float] | Array) -> Distribution:
    """Return the distribution of the one-sided share in k of ``dim`` directions.

    Exact for rank 1, and to four moments otherwise. For k ≤ 2 the strongest direction is treated separately: given
    its coordinates, the rest is a share of random orientation in one dimension less (exactly for k = 1).

    Parameters
    ----------
    k, dim
        Directions chosen, and dimension of the side.
    shares
        Energy shares p_r of ΔW, descending, Σp = 1; NaN (ΔW = 0) gives p-values of NaN.
    """
    p = np.asarray(shares, dtype=np.float64)
    rest = 1 - float(p[0])
    if k <= _FEW and dim > 2 * k and rest > RESOLUTION:
        head, others = share_distribution(k, dim, [1.0]), _plain_share_distribution(k, dim - 1, p[1:] / rest)
        return StrongestAndRest(head, others, 1 - rest, k, bool(p[0] ** 2 > (p[1:] ** 2).sum()))
    return _plain_share_distribution(k, dim, p)


def joint_share_distribution(k: int, out_dim: int, in_dim: int, shares: Sequence[float] | Array) -> Distribution:
    """Return the distribution of the joint share in k × k directions: left share × the fraction of it on the right.

    The second factor has the moments that make those of the product exact; it is exact for rank 1, and for k = 1.
    """
    p = np.asarray(shares, dtype=np.float64)
    powers = powers_of(p)
    first = relative_moments((k, out_dim), FULL_SIDE, powers)
    both = relative_moments((k, out_dim), (k, in_dim), powers)
    ratios = [(joint - left) / (1 + left) for joint, left in zip(both, first, strict=True)]
    left, right = share_distribution(k, out_dim, p), Pearson.of(Moments.of_relative(k / in_dim, *ratios))
    # If all directions of one side are chosen, the other side's distribution remains.
    if k == out_dim:
        return right
    return left if k == in_dim else ProductDistribution(left, right)


def centroid_distribution(directions: int, inside: Powers) -> Distribution:
    """Return the distribution of the centroid Σ i·e_i/Σe_i over ``directions`` indices, see ``haar_centroid``.

    Parameters
    ----------
    directions
        q.
    inside
        Power sums of the part of ΔW in the span of the q directions, from :meth:`Alignment.inside_left`.
    """
    return Pearson.of(centered_moments(np.arange(directions, dtype=np.float64), inside))


def diagonal_share_distribution(out_dim: int, in_dim: int, shares: Sequence[float] | Array) -> Distribution:
    """Return the distribution of the diagonal share Σ_i (u_iᵀΔWv_i)²/‖ΔW‖², to four moments."""
    return Pearson.of(diagonal_moments(out_dim, in_dim, powers_of(shares)))


def _plain_share_distribution(k: int, dim: int, p: Array) -> Distribution:
    return Pearson.of(Moments.of_relative(k / dim, *relative_moments((k, dim), FULL_SIDE, powers_of(p))))


def _halved(distribution: Distribution) -> tuple[Array, Array]:
    """Return every second node, enough where the nodes of two distributions are combined."""
    points, weights = distribution.nodes()
    return points[::2], weights[::2] / weights[::2].sum()
