"""Offsets of the base, drift of frozen weights, rounding: what is called a fault, and what only looks like one."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from spectra.analysis.verdict.rules.bookkeeping import merge_drift, rounding, wrong_base
from spectra.runs.tables import TRAJECTORY, Tables, conform
from tests.analysis.verdict.rules.rule_tables import MODULE_NAMES, log, made


def with_cosine(tables: Tables, cosine: float) -> Tables:
    steps = sorted(tables.modules["step"].unique())
    rows = [
        {"step": step, "module": name, "cos_final": 1.0 if step == steps[-1] else cosine}
        for step in steps
        for name in MODULE_NAMES
    ]
    frame = pd.DataFrame(rows).reindex(columns=list(TRAJECTORY))
    return dataclasses.replace(tables, trajectory=conform("trajectory", frame))


@pytest.mark.parametrize("subspace", ["principal", "minor"])
def test_a_constant_offset_in_one_block_is_another_base(subspace: str) -> None:
    found = wrong_base(with_cosine(made(relative_fro=0.1, share=0.9, subspace=subspace), 0.99))
    assert (found.verdict, found.onset) == ("wrong_base", 10)
    fact = found.evidence[0]
    assert (fact.value, fact.threshold) == (0.9, 0.8)
    assert fact.null == pytest.approx(1 / (48 * 24))
    assert f"one {subspace} block" in fact.says


def test_without_a_trajectory_the_norm_decides() -> None:
    assert wrong_base(made(relative_fro=0.1, share=0.9)).verdict == "wrong_base"


@pytest.mark.parametrize(
    "tables",
    [
        made(relative_fro=lambda step: 2e-3 * step, share=0.9),
        made(relative_fro=0.1, share=0.5),
        made(relative_fro=0.01, share=0.9),
        with_cosine(made(relative_fro=0.1, share=0.9), 0.5),
    ],
    ids=["it grows", "it is not locked", "it is small", "it turns"],
)
def test_what_looks_like_an_offset_and_is_none(tables: Tables) -> None:
    assert wrong_base(tables).verdict is None


def test_one_snapshot_is_a_fault_only_where_its_block_is_sharp() -> None:
    sharp = wrong_base(made(steps=(0,), relative_fro=0.1, share=0.98))
    assert (sharp.verdict, sharp.onset) == ("wrong_base", None)
    blurred = wrong_base(made(steps=(0,), relative_fro=0.1, share=0.9))
    assert (blurred.verdict, len(blurred.evidence)) == (None, 1)
    for found in (sharp, blurred):
        assert "in the only snapshot" in found.evidence[0].says
        assert "hardly changes" not in found.evidence[0].says
    assert wrong_base(made(steps=(0,), relative_fro=0.1, share=0.5)).evidence == ()


def test_an_update_before_the_first_step_is_another_base_only_in_one_block() -> None:
    found = wrong_base(made(steps=(0, 10, 20), relative_fro=lambda step: 0.05 + 1e-3 * step, share=0.9))
    assert (found.verdict, found.onset) == ("wrong_base", 0)
    continued = wrong_base(made(steps=(0, 10, 20), relative_fro=lambda step: 0.05 + 1e-3 * step))
    assert continued.verdict is None
    assert "training began from an update" in continued.evidence[0].says
    assert wrong_base(made(steps=(0, 10, 20), relative_fro=lambda step: 1.6e-3 + 1e-3 * step)).verdict is None


def drifting(ratio: float) -> Tables:
    """The update grows to 4e-3 of the base at step 40; the drift is ``ratio`` of it at every snapshot."""
    logged = [ratio * 1e-4 * step if step in (10, 20, 40) else np.nan for step in range(1, 61)]
    return made(series=log(frozen_drift=logged))


def test_frozen_weights_that_moved_are_a_fault() -> None:
    found = merge_drift(drifting(0.3))
    assert (found.verdict, found.onset) == ("merge_drift", 10)
    assert found.evidence[0].value == pytest.approx(0.3)


def test_frozen_weights_that_hardly_moved_are_no_fault() -> None:
    found = merge_drift(drifting(0.03))
    assert found.verdict is None
    assert found.evidence[0].value == pytest.approx(0.03)
    assert merge_drift(drifting(0.0)).verdict is None
    assert merge_drift(made()).evidence == ()


def test_drift_of_float32_rounding_is_none_however_small_the_update() -> None:
    tables = made(relative_fro=1e-6, series=log(frozen_drift=[2e-7] * 60))
    assert merge_drift(tables).verdict is None


def test_an_update_near_the_rounding_floor_is_a_warning() -> None:
    near = rounding(made(relative_fro=2e-3, rounding_fro=0.0125))
    assert near.verdict is None
    assert near.evidence[0].value == pytest.approx(1.6)
    assert "read the adapter" in near.evidence[0].says
    assert rounding(made(relative_fro=2e-2, rounding_fro=0.0125)).evidence == ()
    assert rounding(made()).evidence == ()
