"""What rules read."""

import pandas as pd

from spectra.analysis.verdict.rules.outcome import lasting, matrices, shares
from tests.analysis.verdict.rules.rule_tables import MODULE_NAMES, made


def test_an_update_that_is_rounding_is_no_matrix_to_a_rule() -> None:
    tables = made(relative_fro=lambda step: 1e-9 if step == 10 else 1e-2)
    assert sorted(matrices(tables)["step"].unique()) == [20, 40]
    assert sorted(shares(tables, "joint")["step"].unique()) == [20, 40]
    assert len(matrices(tables)) == 2 * len(MODULE_NAMES)


def test_what_lasts_lasts_to_the_end() -> None:
    assert lasting(pd.Series([True, True])) == 0
    assert lasting(pd.Series([True, False, True])) == 2
    assert lasting(pd.Series([True, False])) is None
    assert lasting(pd.Series([], dtype=bool)) is None
