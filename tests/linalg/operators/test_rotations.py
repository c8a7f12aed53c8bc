"""Rotations from skew-symmetric parameters."""

import pytest
import torch

from spectra.linalg.operators.rotations import cayley_minus_identity, neumann_minus_identity, skew_symmetric
from tests.builders import randn

EYE = torch.eye(5, dtype=torch.float64)


def test_skew_symmetric_fills_the_upper_triangle_row_by_row() -> None:
    q = skew_symmetric(torch.tensor([[1.0, 2, 3]], dtype=torch.float64))
    assert q.tolist() == [[[0, 1, 2], [-1, 0, 3], [-2, -3, 0]]]
    assert skew_symmetric(torch.zeros(4, 0, dtype=torch.float64)).shape == (4, 1, 1)


@pytest.mark.parametrize("size", [1e-8, 1.0, 30.0])
def test_cayley_is_a_rotation(size: float) -> None:
    q = skew_symmetric(randn(3, 10) * size)
    r = EYE + cayley_minus_identity(q)
    torch.testing.assert_close(r @ r.mT, EYE.expand(3, 5, 5))
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(r @ (EYE - q), EYE + q)


def test_a_small_rotation_keeps_its_digits() -> None:
    q = skew_symmetric(randn(10) * 1e-12)
    torch.testing.assert_close(cayley_minus_identity(q), 2 * q, rtol=1e-11, atol=1e-22)


@pytest.mark.parametrize("terms", range(1, 9))
def test_neumann_counts_each_power_twice_and_the_last_once(terms: int) -> None:
    q = skew_symmetric(randn(2, 10))
    expected = [0 * q, 2 * q, 2 * q + 2 * q @ q + q @ q @ q][min(terms, 3) - 1]
    if terms > 3:
        powers = [torch.linalg.matrix_power(q, power) for power in range(1, terms)]
        expected = 2 * sum(powers[:-1]) + powers[-1]
    torch.testing.assert_close(neumann_minus_identity(q, terms), expected)


def test_neumann_tends_to_cayley() -> None:
    q = skew_symmetric(randn(10) * 0.1)
    torch.testing.assert_close(neumann_minus_identity(q, 40), cayley_minus_identity(q))
