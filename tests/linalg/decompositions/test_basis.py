"""The stored small side, and the implied long side, against a dense float64 SVD."""

import pytest
import torch

from spectra.linalg.decompositions.basis import decompose, thin_svd
from tests.builders import matrix, randn

SHAPES = [(12, 12), (12, 30), (30, 12)]


# Beyond 1e8 the vectors of the least singular values are not determined by the float64 matrix itself.
@pytest.mark.parametrize("condition", [10.0, 5e3, 1e8])
@pytest.mark.parametrize("shape", SHAPES)
def test_coordinates_in_the_singular_basis(shape: tuple[int, int], condition: float) -> None:
    weight = matrix(*shape, condition=condition)
    u, sigma, vh = torch.linalg.svd(weight, full_matrices=False)
    basis = decompose(weight)
    torch.testing.assert_close(basis.sigma, sigma, rtol=1e-10, atol=1e-15)
    x, y = randn(shape[0], 3, seed=1), randn(shape[1], 3, seed=2)
    # Squares: the sign of a singular vector is free.
    torch.testing.assert_close(basis.left(weight, x) ** 2, (u.T @ x) ** 2, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(basis.right(weight, y) ** 2, (vh @ y) ** 2, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_singular_base_still_has_a_whole_basis(shape: tuple[int, int]) -> None:
    weight = randn(shape[0], 5) @ randn(5, shape[1], seed=1)
    basis = decompose(weight)
    assert basis.tail.shape[1] == 7
    for side, dimension in ((basis.left, shape[0]), (basis.right, shape[1])):
        vectors = side(weight, torch.eye(dimension, dtype=torch.float64))
        torch.testing.assert_close(vectors @ vectors.T, torch.eye(12, dtype=torch.float64))


def test_well_conditioned_bases_store_the_small_side_only() -> None:
    basis = decompose(matrix(12, 30, condition=100))
    assert basis.vectors.shape == (12, 12)
    assert basis.tail.shape == (30, 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_thin_svd_reconstructs(shape: tuple[int, int]) -> None:
    weight = matrix(*shape, condition=1e8, seed=3)
    factors = thin_svd(weight)
    torch.testing.assert_close(factors.u @ torch.diag(factors.s) @ factors.v.T, weight, rtol=0, atol=1e-14)


def test_zero_matrix() -> None:
    basis = decompose(torch.zeros(4, 6, dtype=torch.float64))
    assert basis.sigma.tolist() == [0.0] * 4
    assert basis.tail.shape == (6, 4)
