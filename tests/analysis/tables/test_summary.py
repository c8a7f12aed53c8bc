import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spectra.analysis.tables.summary import METRICS, summarize
from spectra.runs.tables import SCHEMAS, SUMMARY
from spectra.statistics.intervals import layer_interval
from tests.analysis.partial_tables import matrix_row, tables

LAYERS = (0, 1, 2, 3, None)


def modules(step: int, **columns: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(step)
    return [
        matrix_row(step, layer, number, **{name: rng.uniform() for name in columns}, stable_rank=1 + rng.uniform())
        for layer in LAYERS
        for number in (0, 1)
    ]


def of(frame: pd.DataFrame, metric: str, step: int = 1) -> pd.Series:
    return frame.set_index(["step", "metric"]).loc[(step, metric)]


def test_a_metric_is_its_mean_with_an_interval_over_layers() -> None:
    made = tables(modules=modules(1) + modules(2))
    found = summarize(made)
    assert list(found.columns) == list(SUMMARY)
    rows = made.modules[made.modules["step"] == 2]
    # Both matrices outside the blocks are clusters of their own.
    expected = layer_interval(rows["stable_rank"].to_numpy(), [0, 0, 1, 1, 2, 2, 3, 3, "a", "b"])
    row = of(found, "stable_rank", 2)
    assert tuple(row[["value", "lo", "hi"]]) == pytest.approx(tuple(expected))
    assert row["matrices"] == 10 and math.isnan(row["expected"])
    assert list(found["step"].unique()) == [1, 2]


def test_matrices_without_a_direction_count_only_for_size() -> None:
    rows = modules(1)
    rows[0] |= {"relative_fro": 1e-9}
    rows[1] |= {"stable_rank": math.nan}
    vector = {**matrix_row(1, 0, 9), "in_features": None, "relative_fro": 5.0}
    found = summarize(tables(modules=[*rows, vector]))
    assert of(found, "relative_fro")["matrices"] == 10
    assert of(found, "relative_fro")["value"] < 0.011
    assert of(found, "stable_rank")["matrices"] == 8


def test_a_lift_is_mean_share_over_mean_chance() -> None:
    rng = np.random.default_rng(0)
    rows = modules(1)
    projection = [
        {"step": 1, "module": row["module"], "side": "left", "subspace": "minor", "fraction": fraction, "k": 6,
         "share": share, "expected": chance, "lift": share / chance}
        for row in rows
        for fraction, share, chance in ((0.1, rng.uniform(), rng.uniform()), (0.5, 1.0, 0.5))
    ]  # fmt: skip
    made = tables(modules=rows, projection=projection)
    tenth = made.projection[made.projection["fraction"] == 0.1]
    row = of(summarize(made), "left_minor_lift")
    assert row["value"] == pytest.approx(tenth["share"].mean() / tenth["expected"].mean())
    assert row["expected"] == 1 and row["lo"] < row["value"] < row["hi"]


def test_expectations_stand_beside_the_metrics_that_have_one() -> None:
    rows = modules(1) + modules(4)
    key = [{"step": row["step"], "module": row["module"]} for row in rows]
    found = summarize(
        tables(
            modules=rows,
            trajectory=[k | {"cos_final": 0.9, "linearity": 0.9, "expected_linearity": 0.6} for k in key],
            drift=[k | {"rho_sigma": 0.2, "kappa_spec": 1.3, "nss": 1e-5, "intruders": 2} for k in key],
            coordinates=[
                k | {"enrichment_principal": 0.5, "expected_overlap_principal": 0.04, "density_principal": 0.1}
                for k in key
            ],
        )
    )
    assert of(found, "cos_final")["expected"] == 0.5  # √(1/4)
    assert of(found, "linearity")["expected"] == pytest.approx(0.6)
    assert of(found, "rho_sigma")["expected"] == pytest.approx(1 / 8)
    assert of(found, "kappa_spec")["expected"] == 1
    assert of(found, "enrichment_principal")["expected"] == pytest.approx(0.4)
    assert of(found, "intruders")["value"] == 2
    assert math.isnan(of(found, "nss")["expected"])


def test_intervals_stay_in_the_range_of_the_metric() -> None:
    rows = [matrix_row(1, layer, top1_energy=float(layer == 0)) for layer in range(3)]
    row = of(summarize(tables(modules=rows)), "top1_energy")
    assert (row["lo"], row["hi"]) == (0, 1)


def test_two_layers_have_a_mean_and_no_interval() -> None:
    row = of(summarize(tables(modules=[matrix_row(1, layer, stable_rank=2.0) for layer in (0, 1)])), "stable_rank")
    assert row["value"] == 2 and math.isnan(row["lo"]) and math.isnan(row["hi"])


def test_no_matrix_no_row() -> None:
    assert summarize(tables()).empty
    vector = {**matrix_row(1, 0), "in_features": None}
    assert summarize(tables(modules=[vector])).empty


def test_every_metric_has_its_columns() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        if metric.table != "lifts":
            assert metric.column in SCHEMAS[metric.table]
            assert not isinstance(metric.expected, str) or metric.expected in SCHEMAS[metric.table]
