"""Distribution functions against scipy's and against random orientations; p-values are uniform under the null."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from spectra.linalg.nulls.distributions import RESOLUTION, Distribution, Pearson
from spectra.linalg.nulls.haar_exact import Moments
from spectra.linalg.nulls.share_distributions import (
    centroid_distribution,
    diagonal_share_distribution,
    joint_share_distribution,
    powers_of,
    share_distribution,
)
from tests import oracles_nulls as oracle

KINDS = {
    "beta": stats.beta(0.5, 7),
    "beta prime": stats.betaprime(3, 12),
    "gamma": stats.gamma(2.5),
    "student": stats.t(9),
    "normal": stats.norm(3, 2),
}


def moments_of(distribution: stats.rv_continuous) -> Moments:
    mean, variance, skewness, excess = distribution.stats(moments="mvsk")
    return Moments(float(mean), math.sqrt(variance), float(skewness), float(excess))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pearson_curve_is_found_again(kind: str, mirrored: bool) -> None:
    theirs = KINDS[kind]
    moments = moments_of(theirs)
    x = theirs.ppf(np.linspace(0.001, 0.999, 41))
    expected = theirs.cdf(x)
    if mirrored:
        moments = Moments(-moments.mean, moments.sd, -moments.skewness, moments.excess)
        x, expected = -x, 1 - expected
    mine = Pearson.of(moments)
    assert isinstance(mine, Pearson)
    assert mine.kind == kind
    np.testing.assert_allclose(mine.cdf(x), expected, atol=1e-6)
    np.testing.assert_allclose(mine.sf(x), 1 - expected, atol=1e-6)
    points, weights = mine.nodes()
    assert points @ weights == pytest.approx(moments.mean, abs=2e-3 * moments.sd)
    assert math.sqrt(((points - moments.mean) ** 2) @ weights) == pytest.approx(moments.sd, rel=1e-2)


def test_type_four_takes_its_neighbour() -> None:
    """A little more skewed than Student's t, whose median is its mean; far more, and the curve must still be one."""
    for skewness in (0.002, 0.1, 1.0):
        mine = Pearson.of(Moments(0.0, 1.0, skewness, 2.5))
        assert isinstance(mine, Pearson)
        assert mine.kind == "beta prime"
        x = np.linspace(-4, 6, 2001)
        density = np.diff(mine.cdf(x)) / np.diff(x)
        middle = (x[1:] + x[:-1]) / 2
        assert (density >= 0).all()
        mean = float(np.sum(middle * density) * 0.005)
        assert mean == pytest.approx(0, abs=0.01)
        assert float(np.sum((middle - mean) ** 2 * density) * 0.005) == pytest.approx(1, abs=0.03)
    assert float(mine.cdf(np.array([0.0]))[0]) > 0.54


def test_rank_one_laws_are_exact() -> None:
    left, right = stats.beta(1.5, 8.5), stats.beta(1.5, 12.5)
    x = np.array([1e-4, 0.01, 0.03, 0.1, 0.3])
    np.testing.assert_allclose(share_distribution(3, 20, [1.0]).cdf(x), left.cdf(x), atol=1e-9)
    product = [integrate.quad(lambda b, at=at: left.pdf(b) * right.cdf(at / b), 0, 1, limit=200)[0] for at in x]
    np.testing.assert_allclose(joint_share_distribution(3, 20, 28, [1.0]).cdf(x), product, atol=2e-3)


SPECTRA = {
    "rank one": [1.0],
    "steep": [0.7, 0.2, 0.1],
    "flat": [1 / 8] * 8,
    "one above many": [0.5, *[0.5 / 15] * 15],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_p_values_of_random_orientations_are_uniform(name: str) -> None:
    p, shape, draws = SPECTRA[name], (20, 28), 1500
    energy = oracle.random_coordinates(p, shape, draws, seed=11)
    diagonal = np.trace(energy[:, :20, :20], axis1=1, axis2=2)
    index = np.arange(20)
    cases: dict[str, tuple[Distribution, np.ndarray]] = {
        "diagonal": (diagonal_share_distribution(*shape, p), diagonal),
        "centroid": (centroid_distribution(20, powers_of(p)), energy.sum(2) @ index),
        **{f"left {k}": (share_distribution(k, 20, p), energy[:, :k].sum((1, 2))) for k in (1, 2, 4, 10)},
        **{f"right {k}": (share_distribution(k, 28, p), energy[:, :, :k].sum((1, 2))) for k in (1, 2, 4, 10)},
        **{f"joint {k}": (joint_share_distribution(k, *shape, p), energy[:, :k, :k].sum((1, 2))) for k in (4, 10)},
        "joint 1": (joint_share_distribution(1, *shape, p), energy[:120, 0, 0]),
    }
    for case, (distribution, values) in cases.items():
        found = 2 * np.minimum(distribution.cdf(values), distribution.sf(values))
        assert distribution.p(float(values[0])) == pytest.approx(found[0])
        assert stats.kstest(found, "uniform").pvalue > 1e-3, case


def test_tails_keep_their_order() -> None:
    distribution = joint_share_distribution(4, 64, 64, [0.6, 0.4])
    x = np.array([0.01, 0.05, 0.1, 0.2])
    upper = distribution.sf(x)
    assert (np.diff(upper) < 0).all()
    np.testing.assert_allclose(distribution.cdf(x) + upper, 1, atol=1e-9)
    assert distribution.p(0.9) == RESOLUTION
    assert distribution.p(4**2 / 64**2) > 0.1


def test_what_has_no_spread_has_no_p() -> None:
    for distribution in (
        share_distribution(8, 8, [0.5, 0.5]),
        share_distribution(3, 10, [0.1] * 10),
        share_distribution(1, 1, [1.0]),
        joint_share_distribution(1, 1, 1, [1.0]),
        share_distribution(2, 10, [math.nan]),
        joint_share_distribution(2, 10, 12, [math.nan, math.nan]),
        diagonal_share_distribution(4, 6, [math.nan]),
        centroid_distribution(1, (1.0, 1.0, 1.0)),
    ):
        assert math.isnan(distribution.p(0.5))
    assert math.isnan(share_distribution(1, 10, [1.0]).p(math.nan))


def test_a_side_that_is_wholly_chosen_leaves_the_other() -> None:
    x = np.array([0.05, 0.2, 0.5])
    np.testing.assert_allclose(joint_share_distribution(1, 1, 9, [1.0]).cdf(x), stats.beta(0.5, 4).cdf(x), atol=1e-9)
    np.testing.assert_allclose(joint_share_distribution(1, 9, 1, [1.0]).cdf(x), stats.beta(0.5, 4).cdf(x), atol=1e-9)
