import math
import subprocess
import sys

import pytest

from spectra.linalg.nulls.haar_moments import haar_joint_share, haar_share
from spectra.statistics.shares import isotropic_rhos, mean_share, share_rows
from tests.analysis.partial_tables import matrix_row, tables


def two_matrices(**changes: float):  # type: ignore[no-untyped-def]
    wide = {"out_features": 32, "in_features": 96, "participation_ratio": 2.0}
    modules = [matrix_row(1, 0), matrix_row(1, 1, **wide), matrix_row(1, 2, **changes)]
    places = [("model.layers.0.m0", 6, 64), ("model.layers.1.m0", 3, 32), ("model.layers.2.m0", 6, 64)]
    rows = [
        {"step": 1, "module": module, "side": "left", "subspace": "principal", "fraction": fraction, "k": k,
         "share": 0.2, "expected": k / dim, "lift": 0.2 * dim / k}
        for module, k, dim in places
        for fraction in (0.1, 0.5)
    ]  # fmt: skip
    return tables(modules=modules, projection=rows)


def test_a_mean_has_the_null_of_independent_matrices() -> None:
    rows = share_rows(two_matrices(participation_ratio=math.nan), 0.12, 1)
    nulls = [haar_share(6, 64, 1 / 4), haar_share(3, 32, 1 / 2)]
    mean = mean_share(rows)
    assert (mean.matrices, mean.share) == (2, pytest.approx(0.2))
    chance = sum(null.mean for null in nulls) / 2
    assert mean.null.sd == pytest.approx(math.hypot(*(null.sd for null in nulls)) / 2, rel=1e-14)
    assert mean.lift == pytest.approx(0.2 / chance)
    assert mean.sd == pytest.approx(mean.null.sd / chance)
    assert mean.z == pytest.approx((mean.lift - 1) / mean.sd)


def test_updates_that_are_rounding_are_left_out() -> None:
    assert len(share_rows(two_matrices(), step=1)) == 3
    assert len(share_rows(two_matrices(relative_fro=1e-8), step=1)) == 2
    assert share_rows(two_matrices(), step=2).empty


def test_joint_shares_take_the_joint_null() -> None:
    made = two_matrices()
    made.projection["side"] = "joint"
    rows = share_rows(made, step=1)
    assert rows["sd"].iloc[1] == haar_joint_share(3, 32, 96, 1 / 2).sd


def test_every_row_has_the_isotropic_rho_of_its_shape() -> None:
    rows = two_matrices().modules.iloc[1:]
    assert isotropic_rhos(rows).to_dict() == {1: pytest.approx(1 / math.sqrt(96)), 2: pytest.approx(1 / 8)}
    assert isotropic_rhos(rows.iloc[:0]).empty


def test_means_need_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import spectra.statistics.shares, spectra.figures.data.summaries"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
