"""Structured operators of additive methods against their dense matrices in float64."""

import pytest
import torch
from torch import Tensor

from spectra.linalg.operators.basic import Dense, LowRank, Operator
from spectra.linalg.operators.kronecker_and_circulant import BlockCirculant, Kronecker, Placed, hadamard, product
from tests.builders import matrix, randn

FIRST, SECOND = LowRank(randn(12, 2, seed=1), randn(2, 15, seed=2)), LowRank(randn(12, 3, seed=3), randn(3, 15, seed=4))
LEFT, RIGHT = matrix(3, 5, condition=1e3, seed=5), LowRank(randn(4, 2, seed=6), randn(2, 3, seed=7))
ROWS, COLUMNS = torch.tensor([7, 0, 3]), torch.tensor([4, 1])


def circulant(kernel: Tensor) -> Tensor:
    """Build the matrix element by element."""
    blocks_down, blocks_across, size = kernel.shape
    dense = torch.zeros(blocks_down * size, blocks_across * size, dtype=torch.float64)
    for row in range(len(dense)):
        for column in range(dense.shape[1]):
            shift = (column % size - row % size) % size
            dense[row, column] = kernel[row // size, column // size, shift]
    return dense


def placed(block: Tensor, shape: tuple[int, int], rows: Tensor, columns: Tensor) -> Tensor:
    dense = torch.zeros(shape, dtype=torch.float64)
    dense[rows[:, None], columns[None, :]] = block
    return dense


KERNELS = {size: randn(3, 2, size, seed=size) for size in (1, 2, 5, 8)}
ALL_ROWS, ALL_COLUMNS = torch.arange(9), torch.arange(6)
CASES: dict[str, tuple[Operator, Tensor, int]] = {
    "product of few columns": (
        product(randn(9, 2), randn(2, 14, seed=1), 0.5),
        randn(9, 2) @ randn(2, 14, seed=1) / 2,
        2,
    ),
    "product of many columns": (
        product(randn(9, 9), randn(9, 14, seed=1), 0.5),
        randn(9, 9) @ randn(9, 14, seed=1) / 2,
        9,
    ),
    "hadamard": (hadamard(FIRST, SECOND, 3.0), 3 * FIRST.dense() * SECOND.dense(), 6),
    "hadamard of full rank": (
        hadamard(LowRank(randn(5, 2), randn(2, 4)), LowRank(randn(5, 2, seed=8), randn(2, 4, seed=9))),
        (randn(5, 2) @ randn(2, 4)) * (randn(5, 2, seed=8) @ randn(2, 4, seed=9)),
        4,
    ),
    "kronecker": (Kronecker(Dense(LEFT), RIGHT), torch.kron(LEFT, RIGHT.dense()), 6),
    "kronecker of vectors": (Kronecker(Dense(LEFT), Dense(torch.ones(1, 2))), LEFT.repeat_interleave(2, 1), 3),
    **{f"circulant of {size}": (BlockCirculant(k), circulant(k), 2 * size) for size, k in KERNELS.items()},
    "circulant, wide": (BlockCirculant(randn(1, 3, 4)), circulant(randn(1, 3, 4)), 4),
    "placed": (Placed(Dense(LEFT[:, :2]), (9, 6), ROWS, COLUMNS), placed(LEFT[:, :2], (9, 6), ROWS, COLUMNS), 2),
    "placed rows": (
        Placed(LowRank(randn(3, 1), randn(1, 6)), (9, 6), ROWS),
        placed(randn(3, 1) @ randn(1, 6), (9, 6), ROWS, ALL_COLUMNS),
        1,
    ),
    "placed columns": (
        Placed(Dense(randn(9, 2)), (9, 6), None, COLUMNS),
        placed(randn(9, 2), (9, 6), ALL_ROWS, COLUMNS),
        2,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_products_and_dense(case: str) -> None:
    operator, dense, bound = CASES[case]
    x, y = randn(dense.shape[1], 2, seed=7), randn(dense.shape[0], 2, seed=8)
    assert operator.shape == tuple(dense.shape)
    assert operator.rank_bound == bound
    assert operator.device == dense.device
    torch.testing.assert_close(operator.dense(), dense)
    torch.testing.assert_close(operator @ x, dense @ x)
    torch.testing.assert_close(operator.rmatmul(y), dense.T @ y)
    torch.testing.assert_close(operator.T.dense(), dense.T)


@pytest.mark.parametrize("case", CASES)
def test_svd_and_norm(case: str) -> None:
    operator, dense, bound = CASES[case]
    factors = operator.svd()
    count = len(factors.s)
    assert count <= bound
    assert torch.equal(factors.s, factors.s.sort(descending=True).values)
    torch.testing.assert_close(factors.u @ torch.diag(factors.s) @ factors.v.T, dense)
    torch.testing.assert_close(factors.u.T @ factors.u, torch.eye(count, dtype=torch.float64))
    torch.testing.assert_close(factors.v.T @ factors.v, torch.eye(count, dtype=torch.float64))
    torch.testing.assert_close(factors.s, torch.linalg.svdvals(dense)[:count])
    assert operator.frobenius() == pytest.approx(float(torch.linalg.matrix_norm(dense)))


def test_factors_are_kept_only_where_they_are_smaller() -> None:
    assert isinstance(product(randn(9, 2), randn(2, 14)), LowRank)
    assert isinstance(product(randn(9, 9), randn(9, 14)), Dense)
    assert isinstance(hadamard(FIRST, SECOND), LowRank)


def test_minor_values_of_a_kronecker_product_keep_their_digits() -> None:
    """The smallest value is a product of two small ones, far below what a dense SVD can resolve."""
    left, right = matrix(6, 6, condition=1e9, seed=1), matrix(5, 5, condition=1e9, seed=2)
    sigma = Kronecker(Dense(left), Dense(right)).svdvals()
    assert float(sigma[-1]) == pytest.approx(1e-18, rel=1e-5)
