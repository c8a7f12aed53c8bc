"""Distributions of the shares, centroids and diagonal shares of an update of random orientation.

Each function returns a batch of distributions (:mod:`spectra.linalg.nulls.distributions`) for rows of numbers.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from spectra.linalg.nulls.distributions import (
    RESOLUTION,
    Array,
    Distribution,
    Either,
    Flags,
    Inner,
    Integers,
    Pearson,
    ProductDistribution,
    StrongestAndRest,
)
from spectra.linalg.nulls.haar_exact import (
    FULL_SIDE,
    Moments,
    Powers,
    centered_moments,
    diagonal_moments,
    relative_moments,
)

Counts = int | Integers
Shares = Sequence[float] | Array

# With at most this many base directions the terms of an uneven spectrum do not average out, and four moments are not
# enough.
_FEW = 2


def powers_of(shares: Shares) -> Powers:
    """Return (Σp², Σp³, Σp⁴) of energy shares, over the last axis."""
    p = np.asarray(shares, dtype=np.float64)
    second, third, fourth = ((p**power).sum(-1) for power in (2, 3, 4))
    return second, third, fourth


def share_distribution(k: Counts, dim: Counts, shares: Shares) -> Distribution:
    """Return the distribution of the one-sided share in k of ``dim`` directions.

    Exact for rank 1, and to four moments otherwise. For k ≤ 2 the strongest direction is treated separately: given
    its coordinates, the rest is a share of random orientation in one dimension less (exactly for k = 1).

    Parameters
    ----------
    k, dim
        Directions chosen, and dimension of the side: numbers, or N of them.
    shares
        Energy shares p_r of ΔW, descending, Σp = 1, (R,) or N × R, with zeros at the end where ranks differ; NaN
        (ΔW = 0) gives p-values of NaN.
    """
    chosen, sides, p = _batch(k, dim, shares=shares)
    return _together(_share_distributions(chosen, sides, p, np.ones(len(p), dtype=bool)))


def joint_share_distribution(k: Counts, out_dim: Counts, in_dim: Counts, shares: Shares) -> Distribution:
    """Return the distribution of the joint share in k × k directions: left share × what of it lies on the right.

    The second factor has the moments that make those of the product exact; it is exact for rank 1, and for k = 1.
    """
    chosen, rows, columns, p = _batch(k, out_dim, in_dim, shares=shares)
    powers = powers_of(p)
    first = relative_moments((chosen, rows), FULL_SIDE, powers)
    both = relative_moments((chosen, rows), (chosen, columns), powers)
    ratios = [(joint - left) / (1 + left) for joint, left in zip(both, first, strict=True)]
    right = Moments.of_relative(chosen / columns, *ratios)
    # If all directions of one side are chosen, the other side's distribution remains.
    no_left = chosen == rows
    no_right = (chosen == columns) & ~no_left
    parts: list[tuple[Flags, Distribution]] = [(no_left, Pearson.of(right.at(no_left)))] if no_left.any() else []
    parts += _share_distributions(chosen, rows, p, no_right)
    parts += [
        (among, ProductDistribution(left, Pearson.of(right.at(among))))
        for among, left in _share_distributions(chosen, rows, p, ~(no_left | no_right))
    ]
    return _together(parts)


def centroid_distribution(directions: int, inside: Powers) -> Distribution:
    """Return the distribution of the centroid Σ i·e_i/Σe_i over ``directions`` indices, see ``haar_centroid``.

    Parameters
    ----------
    directions
        q.
    inside
        Power sums of the part of ΔW that lies in the span of the q directions, from :meth:`Alignment.inside_left`.
    """
    return Pearson.of(centered_moments(np.arange(directions, dtype=np.float64), inside))


def diagonal_share_distribution(out_dim: int, in_dim: int, shares: Shares) -> Distribution:
    """Return the distribution of the diagonal share Σ_i (u_iᵀΔWv_i)²/‖ΔW‖², to four moments."""
    return Pearson.of(diagonal_moments(out_dim, in_dim, powers_of(shares)))


def _batch(*numbers: Counts, shares: Shares) -> tuple[Any, ...]:
    """Return everything with one row a distribution."""
    p = np.atleast_2d(np.asarray(shares, dtype=np.float64))
    count = max(len(p), *(np.size(number) for number in numbers))
    rows = (np.broadcast_to(np.asarray(number, dtype=np.int64), (count,)) for number in numbers)
    return *rows, np.broadcast_to(p, (count, p.shape[1]))


def _share_distributions(k: Integers, dim: Integers, p: Array, among: Flags) -> list[tuple[Flags, Inner]]:
    """Return the distributions of some rows, grouped by whether the strongest direction is treated separately."""
    apart = among & (k <= _FEW) & (dim > 2 * k) & (1 - p[:, 0] > RESOLUTION)
    wider = p[:, 0] ** 2 > (p[:, 1:] ** 2).sum(1)
    forms: list[tuple[Flags, Callable[[Integers, Integers, Array], Inner]]] = [
        (among & ~apart, _plain),
        (apart & wider, partial(_mixed, head_is_wider=True)),
        (apart & ~wider, partial(_mixed, head_is_wider=False)),
    ]
    return [(rows, form(k[rows], dim[rows], p[rows])) for rows, form in forms if rows.any()]


def _plain(k: Integers, dim: Integers, p: Array) -> Inner:
    return Pearson.of(Moments.of_relative(k / dim, *relative_moments((k, dim), FULL_SIDE, powers_of(p))))


def _mixed(k: Integers, dim: Integers, p: Array, *, head_is_wider: bool) -> Inner:
    rest = 1 - p[:, 0]
    head, others = _plain(k, dim, np.ones((len(p), 1))), _plain(k, dim - 1, p[:, 1:] / rest[:, None])
    return StrongestAndRest(head, others, 1 - rest, k, head_is_wider)


def _together(parts: Sequence[tuple[Flags, Distribution]]) -> Distribution:
    return parts[0][1] if len(parts) == 1 else Either(parts)
