import math

import numpy as np
import pytest
import torch

from spectra.linalg.measures.leading import (
    cosine,
    factor_spaces,
    first,
    gram,
    inner_product,
    leading,
    nonzero,
    shared_spaces,
    subspace_overlap,
)
from spectra.linalg.operators.basic import Dense, Difference, LowRank, Transposed
from spectra.linalg.operators.kronecker_and_circulant import Kronecker
from tests import oracles_relations as oracle
from tests.builders import matrix, randn

SHAPES = {"square": (40, 40), "tall": (70, 30), "wide": (30, 70)}


@pytest.mark.parametrize("condition", [3.0, 1e4, 1e8])
@pytest.mark.parametrize("shape", SHAPES)
def test_leading_triplets_are_those_of_the_svd(shape: str, condition: float) -> None:
    dense = matrix(*SHAPES[shape], condition=condition, seed=1)
    found = leading(dense, 16)
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    assert torch.allclose(found.s, s[:16], rtol=1e-9)
    # Signs are free: every triplet is compared as a rank-1 matrix.
    for k in range(16):
        ours = torch.outer(found.u[:, k], found.v[:, k])
        assert torch.allclose(ours, torch.outer(u[:, k], vh[k]), atol=1e-7)


def test_leading_triplets_stop_at_the_rank() -> None:
    low = LowRank(randn(40, 3, seed=1), randn(3, 60, seed=2)).dense()
    found = leading(low, 16)
    assert len(found.s) == 3
    assert torch.allclose((found.u * found.s) @ found.v.T, low, atol=1e-12)
    assert len(leading(torch.zeros(4, 5, dtype=torch.float64), 2).s) == 0
    assert len(leading(matrix(5, 9, seed=1), 16).s) == 5


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e20])
def test_size_does_not_matter(scale: float) -> None:
    dense = matrix(30, 50, condition=100, seed=1)
    assert subspace_overlap(leading(scale * dense, 8).u, leading(dense, 8).u) == pytest.approx(1, abs=1e-12)


def test_inner_products_from_factors() -> None:
    updates = [LowRank(randn(40, r, seed=r), randn(r, 60, seed=50 + r)) for r in (1, 3, 5)]
    updates.insert(1, LowRank(torch.zeros(40, 2), randn(2, 60)))  # ΔW = 0
    factors = [nonzero(update.svd()) for update in updates]
    exact = np.array([[float((x.dense() * y.dense()).sum()) for x in updates] for y in updates])
    assert gram(factors).numpy() == pytest.approx(exact, rel=1e-11, abs=1e-11)
    assert inner_product(factors[0], factors[3]) == pytest.approx(exact[0, 3], rel=1e-11)
    assert inner_product(factors[0], factors[1]) == 0


def test_cosine_is_undefined_for_zero_and_never_beyond_one() -> None:
    assert math.isnan(cosine(0.0, 0.0))
    assert cosine(1 + 1e-15, 1.0) == 1


def test_shared_spaces_take_the_smaller_number_of_directions() -> None:
    x, y = leading(randn(40, 60, seed=1), 16), nonzero(LowRank(randn(40, 3, seed=2), randn(3, 60, seed=3)).svd())
    left, right, count = shared_spaces(x, y)
    assert count == 3
    assert left == subspace_overlap(first(x, 3).u, y.u) and right == subspace_overlap(first(x, 3).v, y.v)
    assert math.isnan(shared_spaces(x, first(y, 0))[0])


def test_factors_have_spaces_where_the_update_is_zero() -> None:
    a = randn(3, 60, seed=1)
    start = LowRank(torch.zeros(40, 3), a)
    left, right = factor_spaces(start)
    assert left is None and right is not None
    assert oracle.share_in(a.numpy().T, right.numpy()) == pytest.approx(1)
    left, right = factor_spaces(Transposed(start))
    assert left is not None and right is None
    assert factor_spaces(Kronecker(start, start)) == (None, None)


def test_spaces_of_sums_and_of_other_structures() -> None:
    one, other = (
        LowRank(randn(40, 2, seed=1), randn(2, 60, seed=2)),
        LowRank(randn(40, 3, seed=3), randn(3, 60, seed=4)),
    )
    left, right = factor_spaces(Difference(one, other))
    assert left is not None and right is not None and (left.shape, right.shape) == ((40, 5), (60, 5))
    assert oracle.share_in(left.numpy(), other.b.numpy()) == pytest.approx(1)
    # The same factors twice span what they span once.
    left, _ = factor_spaces(Difference(one, one))
    assert left is not None and left.shape == (40, 2)
    product = Kronecker(Dense(randn(2, 2, seed=1)), LowRank(randn(5, 1, seed=1), randn(1, 4, seed=2)))
    left, right = factor_spaces(product)
    assert left is not None and right is not None and (left.shape, right.shape) == ((10, 2), (8, 2))
