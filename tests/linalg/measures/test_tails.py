"""Tail exponents against their definitions, one by one, and against samples whose exponent is known."""

import math
import time
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from spectra.linalg.measures.tails import LEAST_VALUES, Tail, hill, power_law, tail
from tests import oracles_motion as oracle
from tests.builders import randn


def pareto_sigma(exponent: float, count: int, *, seed: int = 0) -> Tensor:
    """Return singular values whose squares have the density λ^(−exponent) above 1."""
    eigenvalues = stats.pareto(exponent - 1).rvs(count, random_state=np.random.default_rng(seed))
    return torch.from_numpy(np.sort(np.sqrt(eigenvalues))[::-1].copy())


def ascending_squares(sigma: Tensor) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = ((sigma / sigma[0]) ** 2).flip(0).numpy()
    return squares


def test_hill_by_hand() -> None:
    sigma = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    assert hill(sigma, 3) == pytest.approx(2 / math.log(4 * 2))
    assert hill(sigma) == hill(sigma, 2) == pytest.approx(1 / math.log(2))
    assert hill(1e-200 * sigma, 3) == pytest.approx(hill(sigma, 3))


def test_hill_finds_a_known_exponent() -> None:
    sigma = pareto_sigma(2.5, 20_000)  # σ then has h = 2·1.5
    assert hill(sigma) == pytest.approx(3, abs=4 * 3 / math.sqrt(10_000))
    assert hill(sigma, 2000) == pytest.approx(3, abs=4 * 3 / math.sqrt(2000))


@pytest.mark.parametrize(
    ("values", "k"),
    [([], None), ([1.0], None), ([2.0, 1.0], 3), ([2.0, 1.0], 1), ([1.0, 1.0, 1.0], 3), ([1.0, 0.0], 2)],
)
def test_hill_is_undefined(values: list[float], k: int | None) -> None:
    assert math.isnan(hill(torch.tensor(values, dtype=torch.float64), k))


@pytest.mark.parametrize("exponent", [1.6, 2.5, 4.0, 7.0])
@pytest.mark.parametrize("count", [50, 130])
def test_alpha_equals_the_oracle_and_the_whole_search_of_powerlaw(exponent: float, count: int) -> None:
    import powerlaw

    sigma = pareto_sigma(exponent, count, seed=count)
    values = ascending_squares(sigma)
    found = power_law(sigma)
    assert found.alpha == pytest.approx(oracle.power_law(values)[0], rel=1e-10)
    assert found.values == count
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = powerlaw.Fit(values, parameter_ranges={"alpha": [1, None]}, verbose=0)
    # Above α = 3 the library minimises numerically, to 1e-4.
    assert found.alpha == pytest.approx(whole.alpha, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_alpha_of_what_is_no_power_law(seed: int) -> None:
    sigma = torch.linalg.svdvals(randn(60, 90, seed=seed))
    assert power_law(sigma).alpha == pytest.approx(oracle.power_law(ascending_squares(sigma))[0], rel=1e-10)


@pytest.mark.parametrize("exponent", [1.8, 3.0, 5.0])
def test_alpha_finds_a_known_exponent(exponent: float) -> None:
    alphas = [power_law(pareto_sigma(exponent, 1000, seed=seed)).alpha for seed in range(20)]
    # The cutoff leaves some hundreds of the values: standard error (α − 1)/√n of each.
    assert np.median(alphas) == pytest.approx(exponent, abs=0.05 * (exponent - 1))
    assert np.std(alphas) < 0.2 * (exponent - 1)


def test_alpha_does_not_depend_on_scale() -> None:
    sigma = pareto_sigma(2.5, 200)
    assert power_law(1e-170 * sigma).alpha == pytest.approx(power_law(sigma).alpha, rel=1e-9)


def test_nothing_is_said_and_warnings_stay_as_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    filters = list(warnings.filters)
    power_law(pareto_sigma(6.0, 100))
    assert capfd.readouterr() == ("", "")
    assert warnings.filters == filters


def test_too_few_values_have_no_alpha_and_say_how_many() -> None:
    sigma = pareto_sigma(2.5, LEAST_VALUES)
    too_few = power_law(sigma[:-1])
    assert math.isnan(too_few.alpha) and too_few.values == LEAST_VALUES - 1
    assert math.isfinite(power_law(sigma).alpha)
    assert math.isnan(power_law(torch.ones(80, dtype=torch.float64)).alpha)


def test_values_under_the_rank_tolerance_are_no_tail() -> None:
    sigma = pareto_sigma(2.5, 60)
    rounding = 1e-17 * sigma[0] * torch.linspace(1, 0, 40, dtype=torch.float64)
    assert tail(torch.cat([sigma, rounding]), 100, 100) == Tail(hill(sigma), *power_law(sigma))
    adapter = tail(torch.cat([sigma[:16], rounding]), 100, 100)
    assert (adapter.hill, adapter.values) == (hill(sigma[:16]), 16)
    assert math.isnan(adapter.alpha)


@pytest.mark.parametrize("sigma", [torch.zeros(8, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)])
def test_no_update_has_no_tail(sigma: Tensor) -> None:
    found = tail(sigma, 8, 9)
    assert found.values == 0
    assert math.isnan(found.hill) and math.isnan(found.alpha)


def test_a_large_spectrum_is_fitted_in_a_fraction_of_a_second() -> None:
    sigma = pareto_sigma(5.0, 1536)
    power_law(sigma[:100])  # the import
    start = time.process_time()
    power_law(sigma)
    assert time.process_time() - start < 0.4
