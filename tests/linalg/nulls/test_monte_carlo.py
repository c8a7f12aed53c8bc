"""Values beside draws: p-values by rank and by Student's t are uniform under the null."""

import math

import numpy as np
import pytest
from scipy import stats

from spectra.linalg.nulls.distributions import RESOLUTION
from spectra.linalg.nulls.monte_carlo import RANKED, compare_with_draws, compare_with_normal


@pytest.mark.parametrize("draws", [8, 30])
def test_few_draws_of_a_normal_null(draws: int) -> None:
    rng = np.random.default_rng(0)
    found = [compare_with_draws(x, rng.normal(5, 2, draws)) for x in rng.normal(5, 2, 2000)]
    assert stats.kstest([f.p for f in found], "uniform").pvalue > 1e-3
    assert np.mean([f.lo <= f.value <= f.hi for f in found]) == pytest.approx(0.95, abs=0.02)
    n = draws
    assert np.var([f.z for f in found]) == pytest.approx((n * n - 1) / (n * (n - 3)), rel=0.25)


def test_few_draws_of_a_log_normal_null() -> None:
    rng = np.random.default_rng(3)
    found = [compare_with_draws(x, rng.lognormal(0, 1, 8), log_normal=True) for x in rng.lognormal(0, 1, 2000)]
    assert stats.kstest([f.p for f in found], "uniform").pvalue > 1e-3
    assert np.mean([f.lo <= f.value <= f.hi for f in found]) == pytest.approx(0.95, abs=0.02)
    assert min(f.lo for f in found) > 0
    # Value, mean and z are those of the numbers themselves.
    draws = np.array([1.0, 2.0, 6.0])
    assert compare_with_draws(4.0, draws, log_normal=True).z == compare_with_draws(4.0, draws).z
    assert compare_with_draws(0.0, draws, log_normal=True).p < 1e-3


def test_many_draws_of_any_null() -> None:
    rng = np.random.default_rng(1)
    found = np.array([compare_with_draws(x, rng.exponential(1, RANKED)).p for x in rng.exponential(1, 3000)])
    for level in (0.02, 0.1, 0.5):
        assert np.mean(found <= level) == pytest.approx(level, abs=0.025)
    assert found.min() == pytest.approx(2 / (RANKED + 1))


def test_by_hand() -> None:
    draws = np.array([1.0, 2.0, 3.0])
    found = compare_with_draws(4.0, draws)
    assert (found.expected, found.sd, found.z, found.draws) == (2.0, 1.0, 2.0, 3)
    t = 2 / math.sqrt(4 / 3)
    assert found.p == pytest.approx(2 * stats.t(2).sf(t))
    assert (found.lo, found.hi) == pytest.approx(tuple(2 + stats.t(2).ppf([0.025, 0.975]) * math.sqrt(4 / 3)))
    assert compare_with_draws(4.0, draws, discrete=True).p == pytest.approx(2 * 1 / 4)
    assert compare_with_draws(2.0, draws, discrete=True).p == 1.0


def test_no_spread_and_nothing() -> None:
    same = compare_with_draws(0.0, np.zeros(20))
    assert math.isnan(same.z)
    assert same.p == 1.0
    assert compare_with_draws(3.0, np.zeros(20)).p == pytest.approx(2 / 21)
    third = compare_with_draws(1 / 3, np.full(20, 1 / 3) + 1e-17)
    assert third.sd == 0
    assert third.p == 1.0
    assert math.isnan(compare_with_draws(math.nan, np.arange(5.0)).p)
    assert compare_with_draws(1.0, np.array([math.nan, 2.0, math.nan])).draws == 1
    assert math.isnan(compare_with_draws(1.0, np.array([math.nan, 2.0])).p)


def test_closed_form() -> None:
    found = compare_with_normal(1.96, 0.0, 1.0)
    assert found.p == pytest.approx(0.05, abs=1e-4)
    assert (found.lo, found.hi) == (pytest.approx(-1.96, abs=1e-3), pytest.approx(1.96, abs=1e-3))
    assert found.draws == 0
    assert compare_with_normal(0.4, 0.0, 1.0, step=1.0).p == 1.0
    assert compare_with_normal(1.5, 0.0, 1.0, step=1.0).p == pytest.approx(2 * stats.norm.sf(1.0))
    assert compare_with_normal(1e9, 0.0, 1.0).p == RESOLUTION
    assert math.isnan(compare_with_normal(1.0, 0.0, 0.0).p)


def test_discrete_counts_never_look_rarer_than_they_are() -> None:
    counts = stats.binom(40, 0.5).rvs(4000, random_state=2)
    p = np.array([compare_with_normal(float(c), 20.0, math.sqrt(10), step=1.0).p for c in counts])
    for level in (0.01, 0.05, 0.2):
        assert np.mean(p <= level) <= level * 1.1 + 0.005
