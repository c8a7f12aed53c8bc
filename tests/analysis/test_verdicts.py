"""Verdicts on runs whose truth is planted."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spectra.analysis.analyze import Options, analyze
from spectra.analysis.verdicts import judge
from spectra.runs.layout import RunLayout
from spectra.runs.tables import Tables
from tests.builders import lora_config, own_run, small_base, small_factors, write_adapter


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Return a run whose weights are healthy."""
    where = tmp_path_factory.mktemp("run")
    run = own_run(where / "run", small_base(where / "base"))
    return analyze(run, Options(cache=where / "cache")).tables


def series(reward: Any, **more: Any) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    values = np.asarray(reward) + 0.02 * rng.normal(size=len(reward))
    values = np.minimum(values, max(1.0, np.max(reward)))
    return pd.DataFrame({"step": range(1, len(values) + 1), "reward": values, **more})


def verdict(tables: Tables, curve: pd.DataFrame) -> dict[str, Any]:
    changed = Tables(tables.modules, tables.projection, tables.profile, tables.spectrum, curve)
    return judge(changed, {"text": ""})


CASES: dict[str, tuple[Any, dict[str, float], str]] = {
    "a rise": (np.linspace(0.3, 0.8, 60), {}, "healthy"),
    "a rise that stays": ([0.3] * 10 + [0.8] * 50, {}, "healthy"),
    "at the ceiling from the start": ([0.99] * 60, {"zero_advantage_share": 0.97}, "healthy"),
    "flat": ([0.3] * 60, {}, "not_learning"),
    "falling": (np.linspace(0.8, 0.55, 60), {}, "reward_collapsed"),
    "flat above one": ([1.2] * 60, {}, "not_learning"),
    "a collapse after one outlier": ([-5] + [0.8] * 29 + [0.2] * 30, {}, "reward_collapsed"),
    "no gradient": ([0.0] * 60, {"zero_advantage_share": 1.0}, "not_learning"),
    "a collapse": ([0.3] * 10 + [0.7] * 20 + [0.01] * 30, {}, "reward_collapsed"),
    "a collapse from the start": ([0.3] * 8 + [0.0] * 52, {"zero_advantage_share": 0.97}, "reward_collapsed"),
}


@pytest.mark.parametrize("case", CASES)
def test_rewards(tables: Tables, case: str) -> None:
    reward, more, expected = CASES[case]
    found = verdict(tables, series(reward, **more))
    assert found["verdict"] == expected, found["evidence"]
    assert found["summary"].endswith(".") and found["action"]
    assert all({"metric", "value", "null", "threshold", "first_step", "says"} == set(e) for e in found["evidence"])


def test_a_collapse_is_dated(tables: Tables) -> None:
    evidence = verdict(tables, series(CASES["a collapse"][0]))["evidence"][0]
    assert evidence["metric"] == "reward"
    assert 31 <= evidence["first_step"] <= 38


def test_no_rewards_are_said(tables: Tables) -> None:
    found = verdict(tables, pd.DataFrame({"step": [1, 2]}))
    assert found["verdict"] == "healthy"
    assert "no reward was logged" in found["summary"]


def test_few_steps_are_said(tables: Tables) -> None:
    found = verdict(tables, series([0.3] * 8))
    assert found["verdict"] == "healthy"
    assert "too few to judge" in found["summary"]


@pytest.fixture
def grown(tmp_path: Path) -> Any:
    base = small_base(tmp_path / "base")
    run = own_run(tmp_path / "run", base)

    def make(scale: float) -> dict[str, Any]:
        write_adapter(RunLayout(run).snapshot(4), lora_config(str(base)), small_factors(scale=scale))
        return analyze(run, Options(cache=tmp_path / "cache")).verdict

    return make


def test_an_update_as_large_as_the_base_is_diverging(grown: Any) -> None:
    found = grown(1.0)
    assert found["verdict"] == "diverging"
    assert found["evidence"][0]["metric"] == "relative_spectral"
    assert found["evidence"][0]["first_step"] == 4
    assert {module["verdict"] for module in found["modules"].values()} == {"diverging"}


def test_weights_that_did_not_move_are_not_learning(grown: Any) -> None:
    found = grown(0.0)
    assert found["verdict"] == "not_learning"
    assert "no weight has moved" in found["summary"]
    assert {module["verdict"] for module in found["modules"].values()} == {"not_learning"}


def test_a_log_that_ends_in_numbers_that_are_not_finite_is_diverging(tables: Tables) -> None:
    curve = series(np.linspace(0.3, 0.8, 60), non_finite=[np.nan] * 40 + [1.0] * 20)
    found = verdict(tables, curve)
    assert found["verdict"] == "diverging"
    assert found["onset_step"] == found["evidence"][0]["first_step"] == 41


def test_one_skipped_step_is_mentioned_and_no_fault(tables: Tables) -> None:
    curve = series(np.linspace(0.3, 0.8, 60), non_finite=[np.nan] * 20 + [1.0] + [np.nan] * 39)
    found = verdict(tables, curve)
    assert (found["verdict"], found["onset_step"]) == ("healthy", None)
    assert any(e["metric"] == "non_finite_steps" and e["first_step"] == 21 for e in found["evidence"])


def test_a_run_that_has_just_begun_is_not_judged(tables: Tables) -> None:
    found = judge(tables, {"text": ""}, only_start=True)
    assert (found["verdict"], found["summary"]) == ("healthy", "Only step 0 is saved: nothing to judge yet.")
