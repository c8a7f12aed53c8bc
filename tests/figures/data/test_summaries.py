import math

import numpy as np
import pandas as pd
import pytest

from spectra.errors import UsageError
from spectra.figures.data import summaries
from spectra.linalg.nulls.haar_moments import haar_joint_share, haar_share
from spectra.runs.tables import Tables
from tests.figures.synthetic_tables import Spec, make


def test_mean_lift_and_its_z_are_those_of_independent_matrices(lora: Tables) -> None:
    rows = lora.projection.query("step == 64 and side == 'left' and subspace == 'principal' and fraction == 0.1")
    sds = []
    for row in rows.itertuples():
        matrix = lora.modules.query("step == 64 and module == @row.module").iloc[0]
        sds.append(haar_share(int(row.k), int(matrix["out_features"]), 1 / matrix["participation_ratio"]).sd)
    chance = rows["expected"].mean()
    lift, sd = rows["share"].mean() / chance, math.sqrt(sum(s**2 for s in sds)) / len(sds) / chance

    found = summaries.lifts(lora, ["step"])
    found = found.query("step == 64 and side == 'left' and subspace == 'principal'").iloc[0]

    assert found["lift"] == pytest.approx(lift, rel=1e-12)
    assert found["sd"] == pytest.approx(sd, rel=1e-12)
    assert found["z"] == pytest.approx((lift - 1) / sd, rel=1e-12)
    assert found["matrices"] == 28


def test_one_matrix_has_the_z_of_the_projection_table() -> None:
    tables = make(Spec(steps=(8,), layers=1, kinds=("down_proj",), rank=4))
    expected = tables.projection.query("fraction == 0.1").set_index(["side", "subspace"])["z"]
    found = summaries.lifts(tables, ["step"]).set_index(["side", "subspace"])["z"]
    pd.testing.assert_series_equal(found.sort_index(), expected.sort_index(), check_exact=False, rtol=1e-9)


def test_joint_rows_take_the_joint_null() -> None:
    tables = make(Spec(steps=(8,), layers=1, kinds=("down_proj",), rank=4))
    matrix = tables.modules.iloc[0]
    null = haar_joint_share(10, 96, 256, 1 / matrix["participation_ratio"])
    joint = tables.projection.query("side == 'left' and k == 10").assign(side="joint", expected=null.mean, share=0.02)
    both = Tables(tables.modules, joint, tables.profile, tables.spectrum, tables.series)
    found = summaries.lifts(both, ["step"]).iloc[0]
    assert found["sd"] == pytest.approx(null.sd / null.mean, rel=1e-12)
    assert found["z"] == pytest.approx(null.z(0.02), rel=1e-12)


def test_zero_updates_are_left_out(lora: Tables, untrained: Tables) -> None:
    assert 0 not in set(summaries.lifts(lora, ["step"])["step"])
    assert summaries.lifts(untrained, ["step"]).empty


def test_nearest_analyzed_fraction_is_taken(lora: Tables) -> None:
    assert summaries.analyzed_fraction(lora, 0.11) == 0.1
    assert set(summaries.lifts(lora, ["step"], 0.4)["lift"]) == set(summaries.lifts(lora, ["step"], 0.5)["lift"])


def test_vectors_count_only_where_nothing_else_trains(full: Tables) -> None:
    norms = full.modules["kind"] == "input_layernorm"
    alone = Tables(full.modules[norms], full.projection, full.profile, full.spectrum, full.series)
    assert set(summaries.by_step(full, "relative_fro")["modules"]) == {29}
    assert set(summaries.by_step(alone, "relative_fro")["modules"]) == {4}


def test_by_step_gives_median_and_quantiles(lora: Tables) -> None:
    values = lora.modules.query("step == 32")["relative_fro"].to_numpy()
    row = summaries.by_step(lora, "relative_fro").set_index("step").loc[32]
    assert row["median"] == pytest.approx(np.median(values))
    assert row["low"] == pytest.approx(np.quantile(values, 0.1))
    assert row["high"] == pytest.approx(np.quantile(values, 0.9))


def test_grid_has_layers_down_and_kinds_in_forward_order(full: Tables) -> None:
    cells = summaries.grid(full, "relative_fro", step=64)
    assert list(cells.index) == [-1, 0, 1, 2, 3]
    assert list(cells.columns)[:4] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    row = full.modules.query("step == 64 and module == 'model.layers.2.mlp.up_proj'").iloc[0]
    assert cells.loc[2, "up_proj"] == row["relative_fro"]
    assert math.isnan(cells.loc[2, "embed_tokens"])


def test_grid_averages_modules_of_one_cell(lora: Tables) -> None:
    experts = lora.modules.query("step == 64").assign(layer=pd.array([0] * 28, dtype="Int64"), kind="expert")
    tables = Tables(experts, lora.projection, lora.profile, lora.spectrum, lora.series)
    cells = summaries.grid(tables, "relative_fro", step=64)
    assert cells.shape == (1, 1)
    assert cells.iloc[0, 0] == pytest.approx(experts["relative_fro"].mean())


def test_grid_of_a_lift_reads_its_side(lora: Tables) -> None:
    query = "step == 64 and side == 'right' and subspace == 'minor' and fraction == 0.25"
    lift = lora.projection.query(query).set_index("module")["lift"]
    cells = summaries.grid(lora, "minor_lift", step=64, side="right", fraction=0.25)
    assert cells.loc[1, "q_proj"] == lift["model.layers.1.self_attn.q_proj"]


@pytest.mark.parametrize("metric", ["no_such_column", "module", "middle_lift"])
def test_unknown_metric_is_an_error(lora: Tables, metric: str) -> None:
    with pytest.raises(UsageError, match=metric):
        summaries.grid(lora, metric, step=64)


def test_kinds_summarise_matrices_and_vectors(full: Tables) -> None:
    table = summaries.kinds(full, step=64).set_index("kind")
    now = full.modules.query("step == 64 and kind == 'v_proj'")
    assert table.loc["v_proj", "modules"] == 4
    assert table.loc["v_proj", "effective_rank"] == pytest.approx(now["effective_rank"].median())
    assert table.loc["v_proj", "principal_left"] < 1 < table.loc["v_proj", "minor_left"]
    assert table.loc["v_proj", "z_principal_left"] < -2
    assert math.isnan(table.loc["input_layernorm", "principal_left"])
    assert table.loc["input_layernorm", "relative_fro"] > 0


def test_curve_keeps_finite_values_and_smooths() -> None:
    tables = make(Spec(steps=(64,), extra_series={"loss": math.inf}))
    reward = summaries.curve(tables, "reward")
    assert len(reward) == 64
    assert reward["smooth"][10] == pytest.approx(reward["value"][9:12].mean())
    assert summaries.curve(tables, "loss").empty
    assert summaries.curve(tables, "kl").empty
    assert list(summaries.curve(tables, "eval_accuracy")["step"]) == [16, 32, 48, 64]


def test_steps_are_resolved_or_refused(lora: Tables) -> None:
    assert summaries.resolve_step(lora, None) == 64
    assert summaries.resolve_step(lora, 16) == 16
    with pytest.raises(UsageError, match="step 5: was not analyzed; choose one of: 0, 16, 32, 48, 64"):
        summaries.resolve_step(lora, 5)
