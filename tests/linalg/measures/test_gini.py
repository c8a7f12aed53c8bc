"""Gini coefficients against double sums, and their expectation against quadrature and simulation."""

import math

import pytest
import torch

from spectra.linalg.measures.gini import SquaredNorms, expected_gini, gini
from spectra.linalg.operators.basic import LowRank
from tests import oracles_coordinates as oracle
from tests.builders import randn


@pytest.mark.parametrize("scale", [1e-120, 1e-6, 1.0, 1e120])
def test_gini_is_the_mean_difference(scale: float) -> None:
    values = randn(200) ** 4
    assert gini(scale * values) == pytest.approx(oracle.gini(values.numpy()), rel=1e-12)


def test_gini_of_even_of_one_and_of_nothing() -> None:
    assert gini(torch.full((7,), 3.0, dtype=torch.float64)) == pytest.approx(0, abs=1e-15)
    assert gini(torch.eye(7, dtype=torch.float64)[3]) == pytest.approx(6 / 7)
    assert math.isnan(gini(torch.zeros(7, dtype=torch.float64)))
    assert math.isnan(gini(torch.zeros(0, dtype=torch.float64)))


@pytest.mark.parametrize(("count", "degrees"), [(2, 1), (5, 3), (24, 50), (700, 400), (1536, 8960)])
def test_expected_gini_is_that_of_the_gamma_law(count: int, degrees: int) -> None:
    assert expected_gini(count, degrees) == pytest.approx(oracle.expected_gini(count, degrees), rel=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (12, 30), (30, 12)])
def test_expected_gini_of_gaussian_matrices(rows: int, columns: int) -> None:
    draws = torch.stack([(noise**2).sum(1) for noise in randn(3000, rows, columns, seed=5)])
    found = torch.tensor([gini(norms) for norms in draws], dtype=torch.float64)
    assert abs(float(found.mean()) - expected_gini(rows, columns)) < 4 * float(found.std()) / math.sqrt(3000)


def test_squared_norms_by_blocks() -> None:
    update = LowRank(randn(23, 2), randn(2, 9, seed=1))
    norms = SquaredNorms(update.shape, update.device)
    for start in range(0, 23, 5):
        norms.add(start, update.rows(start, min(start + 5, 23)))
    dense = update.dense()
    torch.testing.assert_close(norms.rows, (dense**2).sum(1))
    torch.testing.assert_close(norms.columns, (dense**2).sum(0))
    assert norms.norm == pytest.approx(update.frobenius())
