"""Moments of random orientations: exact small cases, and Monte Carlo over dense matrices."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy import stats

from spectra.linalg.nulls.haar_exact import FULL_SIDE, Moments, centered_moments, diagonal_moments, relative_moments
from spectra.linalg.nulls.haar_moments import haar_block_share, haar_centroid, haar_diagonal_share, haar_share
from spectra.linalg.nulls.share_distributions import powers_of
from tests import oracles_nulls as oracle

DRAWS = 60_000
SPECTRA = ([1.0], [0.6, 0.3, 0.1], [0.25] * 4)


def assert_near(found: Moments, values: np.ndarray) -> None:
    """Within five standard errors of a sample of draws; those of the shape are estimated from twenty parts of it."""
    expected = oracle.four_moments(values)
    parts = np.array([oracle.four_moments(part) for part in np.array_split(values, 20)])
    errors = parts.std(0, ddof=1) / math.sqrt(len(parts))
    for mine, theirs, error in zip(astuple(found), expected, errors, strict=True):
        assert abs(mine - theirs) < 5 * error + 2e-3 * abs(theirs) + 1e-4


@pytest.mark.parametrize("p", SPECTRA)
@pytest.mark.parametrize("shape", [(7, 5), (5, 5), (5, 9)])
def test_against_random_orientations(p: list[float], shape: tuple[int, int]) -> None:
    m, n = shape
    q, powers = min(shape), powers_of(p)
    energy = oracle.random_coordinates(p, shape, DRAWS, seed=3)
    for k, other in ((2, 3), (1, 1), (4, 2)):
        found = Moments.of_relative(k * other / (m * n), *relative_moments((k, m), (other, n), powers))
        assert_near(found, energy[:, :k, :other].sum((1, 2)))
    one_sided = Moments.of_relative(2 / m, *relative_moments((2, m), FULL_SIDE, powers))
    assert_near(one_sided, energy[:, :2].sum((1, 2)))
    assert_near(diagonal_moments(m, n, powers), np.trace(energy[:, :q, :q], axis1=1, axis2=2))
    weights = np.array([0.0, 1.0, 5.0, *range(3, n)])
    assert_near(centered_moments(weights, powers), energy.sum(1) @ weights)


@pytest.mark.parametrize(("k", "d"), [(1, 6), (3, 10), (50, 700)])
def test_a_rank_one_share_is_a_beta(k: int, d: int) -> None:
    found = Moments.of_relative(k / d, *relative_moments((k, d), FULL_SIDE, (1.0, 1.0, 1.0)))
    assert astuple(found) == pytest.approx(oracle.beta_moments(k / 2, (d - k) / 2), rel=1e-9)


def test_a_diagonal_of_one_row_is_a_beta() -> None:
    found = diagonal_moments(1, 6, (1.0, 1.0, 1.0))
    assert astuple(found) == pytest.approx(oracle.beta_moments(0.5, 2.5), rel=1e-9)


@pytest.mark.parametrize("p", [*SPECTRA, list(np.full(16, 1 / 16)), list(stats.dirichlet.rvs([0.3] * 30, 1, 1)[0])])
@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (33, 33), (2048, 700)])
def test_nulls_are_the_first_two_moments(p: list[float], shape: tuple[int, int]) -> None:
    m, n = shape
    q, powers = min(shape), powers_of(p)
    diagonal, null = diagonal_moments(m, n, powers), haar_diagonal_share(m, n, powers[0])
    assert (null.mean, null.sd) == pytest.approx((diagonal.mean, diagonal.sd), rel=1e-8)
    centroid, null = centered_moments(np.arange(float(q)), powers), haar_centroid(q, powers[0])
    assert (null.mean, null.sd) == pytest.approx((centroid.mean, centroid.sd), rel=1e-9)
    block, null = relative_moments((3, m), (5, n), powers)[0], haar_block_share((3, 5), shape, powers[0])
    assert (null.sd / null.mean) ** 2 == pytest.approx(block, rel=1e-9)
    share, null = relative_moments((3, m), FULL_SIDE, powers)[0], haar_share(3, m, powers[0])
    assert (null.sd / null.mean) ** 2 == pytest.approx(share, rel=1e-9)


def test_shape_keeps_its_digits_where_the_spread_is_small() -> None:
    """A near-normal share of 2,048 directions: raw moments would leave no digit of its skewness."""
    powers = powers_of(np.full(600, 1 / 600))
    found = Moments.of_relative(0.25, *relative_moments((512, 2048), FULL_SIDE, powers))
    assert found.sd < 2e-3
    assert 0 < found.skewness < 0.01
    assert abs(found.excess) < 0.01


def test_no_spread() -> None:
    flat = powers_of(np.full(10, 0.1))
    for found in (
        Moments.of_relative(0.3, *relative_moments((3, 10), FULL_SIDE, flat)),
        centered_moments(np.arange(10.0), flat),
    ):
        assert found.sd == 0
        assert math.isnan(found.skewness)
    assert haar_diagonal_share(1, 1, 1.0).sd == 0
    assert haar_centroid(1, 1.0).sd == 0
    nothing = powers_of([math.nan])
    assert math.isnan(diagonal_moments(4, 4, nothing).sd)
    assert math.isnan(haar_diagonal_share(4, 4, math.nan).sd)
    assert math.isnan(haar_centroid(4, math.nan).sd)
