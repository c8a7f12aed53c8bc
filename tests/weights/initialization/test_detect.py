"""Signatures of a start where a base matrix is zero: it has no singular directions, and is left out."""

import torch
from torch import Tensor

from spectra.linalg.operators.basic import LowRank
from spectra.weights.initialization.detect import DESCRIPTIONS, Factored, initial_misfit, residual_misfit, signature
from tests.builders import matrix, randn

ZERO = torch.zeros(20, 16, dtype=torch.float64)


def last_triplets(weight: Tensor) -> Factored:
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    return Factored(weight, u[:, -2:] * s[-2:], vh[-2:], float(s[-2:].norm()))


def test_the_other_matrices_decide() -> None:
    milora = last_triplets(matrix(20, 16))
    dead = Factored(ZERO, randn(20, 2), randn(2, 16), 1.0)
    assert signature([dead, milora]) == DESCRIPTIONS["milora"]
    assert signature([dead]) is None
    assert signature([milora, Factored(matrix(20, 16), randn(20, 2), randn(2, 16), 1.0)]) is None


def test_a_start_takes_nothing_out_of_zeros() -> None:
    nothing = LowRank(torch.zeros(20, 2, dtype=torch.float64), torch.zeros(2, 16, dtype=torch.float64))
    assert initial_misfit("pissa", [(ZERO, nothing, False)]) is None
    assert residual_misfit([(ZERO, ZERO, 2)]) is None
    assert residual_misfit([(matrix(20, 16), ZERO, 2)]) is not None
