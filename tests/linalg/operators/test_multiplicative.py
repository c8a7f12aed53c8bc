"""Every structured operator against its dense matrix in float64."""

import pytest
import torch
from torch import Tensor

from spectra.linalg.operators.basic import Dense, LowRank, Operator, RowScaled, Sum
from spectra.linalg.operators.multiplicative import BlockDiagonal, PlaneMix, Product
from tests.builders import matrix, randn

BLOCKS = randn(3, 4, 4, seed=1)
P, Q = randn(12, seed=2), randn(12, seed=3)
W = matrix(12, 7, condition=1e6, seed=4)


def plane_mix(kept: Tensor, turned: Tensor, group: int) -> Tensor:
    """Return the dense matrix entry by entry, from the definition."""
    dense, half = torch.diag(kept), group // 2
    for start in range(0, len(kept), group):
        for i in range(start, start + half):
            dense[i, i + half] = -turned[i]
            dense[i + half, i] = turned[i + half]
    return dense


CASES: dict[str, tuple[Operator, Tensor, int]] = {
    "blocks": (BlockDiagonal(BLOCKS), torch.block_diag(*BLOCKS), 12),
    "one block": (BlockDiagonal(BLOCKS[:1]), BLOCKS[0], 4),
    "blocks of one": (BlockDiagonal(P.reshape(12, 1, 1)), torch.diag(P), 12),
    "planes in groups": (PlaneMix(P, Q, 4), plane_mix(P, Q, 4), 12),
    "planes in one group": (PlaneMix(P, Q, 12), plane_mix(P, Q, 12), 12),
    "neighbouring planes": (PlaneMix(P, Q, 2), plane_mix(P, Q, 2), 12),
    "rotated base": (Product(BlockDiagonal(BLOCKS), Dense(W)), torch.block_diag(*BLOCKS) @ W, 7),
    "base rotated from the right": (Product(PlaneMix(P, Q, 4), Dense(W)).T, (plane_mix(P, Q, 4) @ W).T, 7),
    "product with low rank": (
        Product(BlockDiagonal(BLOCKS), LowRank(randn(12, 2, seed=5), randn(2, 7, seed=6))),
        torch.block_diag(*BLOCKS) @ randn(12, 2, seed=5) @ randn(2, 7, seed=6),
        2,
    ),
    "rotated and scaled base": (
        Sum(RowScaled(P, Product(BlockDiagonal(BLOCKS), Dense(W))), RowScaled(P - 1, Dense(W))),
        torch.diag(P) @ (torch.block_diag(*BLOCKS) + torch.eye(12)) @ W - W,
        7,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_products_and_dense(case: str) -> None:
    operator, dense, bound = CASES[case]
    x, y = randn(dense.shape[1], 3, seed=7), randn(dense.shape[0], 3, seed=8)
    assert operator.shape == tuple(dense.shape)
    assert operator.rank_bound == bound
    assert operator.device == dense.device
    torch.testing.assert_close(operator.dense(), dense)
    torch.testing.assert_close(operator @ x, dense @ x)
    torch.testing.assert_close(operator.rmatmul(y), dense.T @ y)
    torch.testing.assert_close(operator.T.dense(), dense.T)
    torch.testing.assert_close(operator.T @ y, dense.T @ y)


@pytest.mark.parametrize("case", CASES)
def test_svd_and_norm(case: str) -> None:
    operator, dense, bound = CASES[case]
    factors = operator.svd()
    torch.testing.assert_close(factors.u @ torch.diag(factors.s) @ factors.v.T, dense)
    torch.testing.assert_close(factors.s, torch.linalg.svdvals(dense)[: len(factors.s)])
    assert int(torch.linalg.matrix_rank(dense)) <= bound
    assert operator.frobenius() == pytest.approx(float(torch.linalg.matrix_norm(dense)))


def test_blocks_in_half_precision_are_widened_exactly() -> None:
    half = BLOCKS.to(torch.bfloat16)
    torch.testing.assert_close(BlockDiagonal(half).blocks, half.to(torch.float64), rtol=0, atol=0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(12, 12\) and \(7, 12\)"):
        Product(BlockDiagonal(BLOCKS), Dense(W.T.contiguous()))
