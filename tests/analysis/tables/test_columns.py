"""Rows that are kept by column become the table of the contract."""

import numpy as np
import pandas as pd

from spectra.analysis.tables.columns import Columns, to_frame
from spectra.runs.tables import empty


def test_rows_are_what_was_put_in() -> None:
    found = Columns.of([{"a": 1, "b": None}, {"a": 2, "c": "x"}]).keyed({"step": 3})
    assert list(found) == [{"step": 3, "a": 1, "b": None, "c": None}, {"step": 3, "a": 2, "b": None, "c": "x"}]
    assert found[1]["a"] == 2
    assert len(Columns.of([])) == len(Columns({})) == 0


def test_blocks_become_one_frame_in_their_order() -> None:
    blocks = [
        Columns({"index": np.arange(2), "sigma": np.array([3.0, 2.0])}, {"step": 1, "module": "m", "layer": 0}),
        Columns({}),
        Columns({"index": np.arange(1), "sigma": np.array([5.0])}, {"step": 2, "module": "n", "layer": None}),
    ]
    found = to_frame("spectrum", blocks)
    expected = pd.DataFrame(
        {"step": [1, 1, 2], "module": ["m", "m", "n"], "index": [0, 1, 0], "sigma": [3.0, 2.0, 5.0]}
    )
    pd.testing.assert_frame_equal(found, expected)  # types, and no column that the table does not have


def test_what_some_rows_lack_is_missing() -> None:
    rows = [{"out_features": 4, "in_features": None, "delta_fro": 1.0}, {"out_features": 4, "in_features": 3}]
    key = {"step": 1, "module": "m", "layer": None, "kind": "k", "method": "lora"}
    found = to_frame("modules", [Columns.of([row]).keyed(key) for row in rows])
    assert found.dtypes.equals(empty("modules").dtypes)
    assert found["in_features"].isna().tolist() == [True, False]
    assert found["delta_fro"].isna().tolist() == [False, True]
    assert found["layer"].isna().all()


def test_no_rows_are_the_empty_table() -> None:
    pd.testing.assert_frame_equal(to_frame("map", []), empty("map"))
