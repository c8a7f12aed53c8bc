"""The row of table ``drift``."""

import math

import pytest
import torch

from spectra.analysis.tables.drift import drift_row
from spectra.linalg.decompositions.basis import decompose
from spectra.linalg.operators.basic import LowRank
from spectra.runs.tables import DRIFT
from tests import oracles_motion as oracle
from tests.builders import matrix, randn


@pytest.mark.parametrize("shape", [(24, 24), (24, 40), (40, 24)])
def test_a_row_has_the_columns_of_the_table(shape: tuple[int, int]) -> None:
    weight = matrix(*shape, condition=1e3)
    update = LowRank(1e-2 * randn(shape[0], 2), randn(2, shape[1], seed=1))
    row = drift_row(weight, decompose(weight), update)
    assert set(row) == set(DRIFT) - {"step", "module"}
    expected = oracle.drift_row(weight.numpy(), update.dense().numpy())
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-8, nan_ok=True)
    assert 0 < row["nss_error"] < 1e-13


def test_the_row_of_no_update() -> None:
    weight = matrix(24, 40)
    row = drift_row(weight, decompose(weight), LowRank(torch.zeros(24, 2), randn(2, 40)))
    undefined = {name for name, value in row.items() if math.isnan(value)}
    # 24 directions have no 64 leading ones.
    assert undefined == {"rho_sigma", "kappa_spec", "angle_max_k64", "angle_mean_k64"}
    assert all(value == 0 for name, value in row.items() if name not in undefined)
