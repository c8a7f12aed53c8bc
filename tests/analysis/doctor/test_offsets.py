"""How a matrix lies to the singular blocks of another."""

import pytest
import torch

from spectra.analysis.doctor.offsets import agreed, block, diagonal, symmetry
from spectra.linalg.decompositions.basis import thin_svd
from spectra.linalg.operators.basic import Dense
from tests.builders import matrix, randn


@pytest.mark.parametrize(("rows", "columns"), [(40, 40), (60, 40), (40, 60)])
@pytest.mark.parametrize("condition", [10.0, 1e8])
def test_the_block_itself(rows: int, columns: int, condition: float) -> None:
    weight = matrix(rows, columns, condition=condition, seed=5)
    basis = thin_svd(weight)
    change = Dense((basis.u[:, :3] * basis.s[:3]) @ basis.v[:, :3].T)
    found = block(change, basis, "first")
    assert (found.rank, found.cosine, found.slope) == (3, pytest.approx(1), pytest.approx(1))
    assert found.share == pytest.approx(float(basis.s[:3].norm() / basis.s.norm()))
    assert block(change, basis, "last", 3).cosine == pytest.approx(0, abs=1e-6)
    assert torch.allclose(diagonal(change, basis)[3:], torch.zeros(37, dtype=torch.float64), atol=1e-12)


def test_noise_lies_in_no_block() -> None:
    basis = thin_svd(matrix(60, 40))
    found = block(Dense(randn(60, 40)), basis, "first", 4)
    assert abs(found.cosine) < 0.1
    assert agreed([found] * 3) is None


def test_nothing_has_no_cosine() -> None:
    found = block(Dense(torch.zeros(9, 9)), thin_svd(matrix(9, 9)), "last")
    assert (found.cosine, found.slope) == (0.0, 0.0)
    assert agreed([]) is None


@pytest.mark.parametrize(("rows", "columns"), [(40, 40), (60, 40), (40, 60)])
@pytest.mark.parametrize("condition", [1.01, 10.0, 1e8])
def test_a_symmetric_matrix_times_the_weight(rows: int, columns: int, condition: float) -> None:
    weight = matrix(rows, columns, condition=condition, seed=5)
    basis = thin_svd(weight)
    p, q = randn(rows, rows), randn(columns, columns, seed=1)
    for change in ((p + p.T) @ weight, weight @ (q + q.T)):
        assert symmetry(Dense(change), weight, basis) == pytest.approx(1, abs=1e-9)
    assert symmetry(Dense((p - p.T) @ weight), weight, basis) < 0.6
    assert symmetry(Dense(randn(rows, columns, seed=2)), weight, basis) == pytest.approx(0.5, abs=0.1)
    assert symmetry(Dense(-0.1 * weight), weight, basis) == 0
