"""Every operator against its dense matrix in float64."""

import pytest
import torch
from torch import Tensor

from spectra.linalg.operators.basic import Dense, Difference, LowRank, Operator, RowScaled, Sum
from tests.builders import matrix, randn

B, A = randn(9, 3, seed=1), randn(3, 14, seed=2)
B0, A0 = randn(9, 3, seed=3), randn(3, 14, seed=4)
W = matrix(9, 14, condition=1e8, seed=5)
D = randn(9, seed=6)

CASES: dict[str, tuple[Operator, Tensor, int]] = {
    "dense": (Dense(W), W, 9),
    "low rank": (LowRank(B, A, 0.5), 0.5 * B @ A, 3),
    "rank above the smaller side": (LowRank(randn(4, 6), randn(6, 5, seed=9)), randn(4, 6) @ randn(6, 5, seed=9), 4),
    "difference of low ranks": (Difference(LowRank(B, A, 2.0), LowRank(B0, A0, 2.0)), 2 * (B @ A - B0 @ A0), 6),
    "difference of dense": (Difference(Dense(W), Dense(2 * W)), -W, 9),
    "scaled rows": (RowScaled(D, Dense(W)), torch.diag(D) @ W, 9),
    "scaled base plus scaled low rank": (
        Sum(RowScaled(D - 1, Dense(W)), RowScaled(D, LowRank(B, A))),
        torch.diag(D) @ (W + B @ A) - W,
        9,
    ),
    "transpose": (LowRank(B, A).T, (B @ A).T, 3),
    "nothing": (LowRank(torch.zeros(9, 3), A), torch.zeros(9, 14, dtype=torch.float64), 3),
}


@pytest.mark.parametrize("case", CASES)
def test_products_and_dense(case: str) -> None:
    operator, dense, bound = CASES[case]
    x, y = randn(dense.shape[1], 2, seed=7), randn(dense.shape[0], 2, seed=8)
    assert operator.shape == tuple(dense.shape)
    assert operator.rank_bound == bound
    torch.testing.assert_close(operator.dense(), dense)
    torch.testing.assert_close(operator @ x, dense @ x)
    torch.testing.assert_close(operator.rmatmul(y), dense.T @ y)
    torch.testing.assert_close(operator.T.dense(), dense.T)
    torch.testing.assert_close(operator.T @ y, dense.T @ y)
    torch.testing.assert_close(operator.T.T.dense(), dense)
    for part in (operator, operator.T):
        whole = part.dense()
        torch.testing.assert_close(part.rows(1, 4), whole[1:4])
        torch.testing.assert_close(part.columns(2, 4), whole[:, 2:4])
        # What a new operator inherits.
        torch.testing.assert_close(Operator.rows(part, 1, 4), whole[1:4])
        torch.testing.assert_close(Operator.columns(part, 2, 4), whole[:, 2:4])


@pytest.mark.parametrize("case", CASES)
def test_svd_and_norm(case: str) -> None:
    operator, dense, bound = CASES[case]
    factors = operator.svd()
    count = len(factors.s)
    assert count <= max(bound, 1)
    torch.testing.assert_close(factors.u @ torch.diag(factors.s) @ factors.v.T, dense)
    torch.testing.assert_close(factors.u.T @ factors.u, torch.eye(count, dtype=torch.float64))
    torch.testing.assert_close(factors.v.T @ factors.v, torch.eye(count, dtype=torch.float64))
    torch.testing.assert_close(factors.s, torch.linalg.svdvals(dense)[:count])
    assert operator.frobenius() == pytest.approx(float(torch.linalg.matrix_norm(dense)))


def test_svd_of_a_difference_that_cancels_keeps_small_values() -> None:
    """PiSSA's BA and B₀A₀ are hundreds of times larger than what is left of them."""
    b, a = randn(40, 4) * 30, randn(4, 30, seed=1)
    b1, a1 = b + 1e-3 * randn(40, 4, seed=2), a + 1e-3 * randn(4, 30, seed=3)
    exact = b1 @ a1 - b @ a
    sigma = Difference(LowRank(b1, a1), LowRank(b, a)).svdvals()
    torch.testing.assert_close(sigma, torch.linalg.svdvals(exact)[:8], rtol=1e-9, atol=0)


def test_equal_terms_give_exactly_nothing() -> None:
    b, a = randn(40, 4) * 30, randn(4, 30, seed=1)
    difference = Difference(LowRank(b, a), LowRank(b.clone(), a.clone()))
    assert difference.frobenius() == 0
    assert Difference(Dense(W), Dense(W)).frobenius() == 0


def test_factors_in_half_precision_are_widened_exactly() -> None:
    half = B.to(torch.bfloat16)
    assert LowRank(half, A).b.dtype == torch.float64
    torch.testing.assert_close(LowRank(half, A).b, half.to(torch.float64), rtol=0, atol=0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(9, 14\) and \(14, 9\)"):
        Sum(Dense(W), Dense(W.T.contiguous()))
