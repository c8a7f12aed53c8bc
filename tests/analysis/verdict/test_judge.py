"""Verdicts on runs whose truth is planted."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spectra.analysis.analyze import Options, analyze
from spectra.analysis.verdict.findings import VERDICTS, Check, Evidence, Status, Verdict
from spectra.analysis.verdict.judge import ACTIONS, judge
from spectra.runs.layout import RunLayout
from spectra.runs.tables import Tables
from tests.analysis.verdict.rules.rule_tables import FLAT, RISING, log, made, noisy
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
    "flat above one": ([1.1, 1.3] * 30, {}, "not_learning"),
    "half of the batches at the most that there is": ([1.2] * 60, {}, "healthy"),
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
    assert any("no weight has moved" in evidence["says"] for evidence in found["evidence"])
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


STEPS = (10, 20, 30, 40, 50, 60)
FALLEN = noisy([0.6] * 45 + [0.05] * 15)


def lost_rank(step: int) -> float:
    return 3.5 if step <= 20 else 1.2


def lost_energy(step: int) -> float:
    return 0.4 if step <= 20 else 0.96


def check(status: Status, verdict: Verdict | None, action: str = "") -> Check:
    fact = Evidence("scale", 0.0, None, 0.0, 0, "α is 0")
    return Check("scale", status, fact, action, verdict)


def test_a_fault_of_the_files_without_a_verdict_is_said_first_with_its_action() -> None:
    tables = made(STEPS, series=log(reward=noisy(RISING)))
    found = judge(tables, {}, [check("fault", None, "Write the labels."), check("fault", None)])
    assert found["verdict"] == "healthy"
    assert found["summary"].startswith("No spectral fault; 2 bookkeeping faults: scale, α is 0; scale, α is 0. Reward")
    assert found["action"] == "Write the labels."
    start = judge(tables, {}, [check("fault", None)], only_start=True)
    assert (
        start["summary"]
        == "No spectral fault; 1 bookkeeping fault: scale, α is 0. Only step 0 is saved: nothing to judge yet."
    )
    assert judge(tables, {}, [check("note", None, "Look.")])["summary"].startswith("Healthy: no fault found; reward")


@pytest.mark.parametrize(("metric", "verdict"), [("frozen_drift", "healthy"), ("predicted_drift", "merge_drift")])
def test_drift_that_the_doctor_measured_is_not_judged_twice(metric: str, verdict: str) -> None:
    moved = [0.12 * 1e-4 * step if step % 10 == 0 else np.nan for step in range(1, 61)]
    measured = Check("merge_drift", "note", Evidence(metric, 4e-4, 0.0, 6e-4, 10, "they moved"), "", None)
    tables = made(STEPS, series=log(reward=noisy(RISING), frozen_drift=moved))
    found = judge(tables, {}, [measured])
    assert found["verdict"] == verdict
    assert sum(e["metric"] == "frozen_drift" for e in found["evidence"]) == 1


def module_verdicts(tables: Tables, checks: tuple[Check, ...] = ()) -> set[tuple[str, str]]:
    return {(m["verdict"], m["says"].split(";")[0]) for m in judge(tables, {}, checks)["modules"].values()}


def test_modules_of_a_faulty_run_are_not_called_healthy_without_more() -> None:
    rising = log(reward=noisy(RISING))
    lost = made(STEPS, effective_rank_energy=lost_rank, top1_energy=lost_energy, series=rising)
    assert module_verdicts(lost) == {("rank_collapsed", "one direction holds over 90% of the energy")}
    assert module_verdicts(made(STEPS, series=rising), (check("fault", "wrong_base"),)) == {
        ("wrong_base", "same as the whole run")
    }
    assert module_verdicts(made(STEPS, series=log(reward=FALLEN))) == {("healthy", "no fault in this matrix")}
    assert {verdict for verdict, _ in module_verdicts(made(STEPS, relative_fro=1e-8))} == {"not_learning"}


def test_every_verdict_has_an_action() -> None:
    assert set(ACTIONS) == set(VERDICTS)


def test_what_began_first_decides_and_the_rest_follows_with_the_steps_between() -> None:
    tables = made(STEPS, effective_rank_energy=lost_rank, top1_energy=lost_energy, series=log(reward=FALLEN))
    found = judge(tables, {})
    assert (found["verdict"], found["onset_step"]) == ("rank_collapsed", 30)
    assert [e["metric"] for e in found["evidence"][:2]] == ["effective_rank_energy", "reward"]
    assert found["evidence"][1]["says"].endswith("16 steps after the run was first rank collapsed")
    assert found["first_signal"] == "effective_rank"
    assert "at step 30, 16 steps before the reward." in found["summary"]


def test_a_reward_that_fell_before_the_rank_decides() -> None:
    early = noisy([0.6] * 15 + [0.05] * 45)
    tables = made(STEPS, effective_rank_energy=lost_rank, top1_energy=lost_energy, series=log(reward=early))
    found = judge(tables, {})
    assert (found["verdict"], found["onset_step"]) == ("reward_collapsed", 16)
    assert found["evidence"][1]["says"].endswith("14 steps after the run was first reward collapsed")


def test_a_fall_between_the_snapshots_that_show_the_fault_of_the_weights_does_not_decide() -> None:
    between = noisy([0.6] * 24 + [0.05] * 36)
    tables = made(STEPS, effective_rank_energy=lost_rank, top1_energy=lost_energy, series=log(reward=between))
    found = judge(tables, {})
    assert found["verdict"] == "rank_collapsed"
    assert "within the 10 steps between two snapshots" in found["evidence"][1]["says"]


def test_bookkeeping_comes_before_what_the_curves_say() -> None:
    moved = [0.5 * 1e-4 * step if step % 10 == 0 else np.nan for step in range(1, 61)]
    found = judge(made(STEPS, series=log(reward=FALLEN, frozen_drift=moved)), {})
    assert found["verdict"] == "merge_drift"
    assert any(e["metric"] == "reward" for e in found["evidence"])


def test_numbers_that_are_not_finite_come_first() -> None:
    broken = judge(
        made(STEPS, relative_fro=lambda step: np.nan if step == 60 else 1e-3), {}, [check("fault", "wrong_base")]
    )
    assert broken["verdict"] == "diverging"


def test_a_fault_of_the_doctor_decides_with_its_own_action() -> None:
    tables = made(STEPS, series=log(reward=FALLEN))
    found = judge(tables, {}, [check("note", None), check("fault", "wrong_base", "Write the alpha.")])
    assert (found["verdict"], found["action"]) == ("wrong_base", "Write the alpha.")
    assert found["evidence"][0]["metric"] == "scale"
    assert judge(tables, {}, [check("note", "wrong_base")])["verdict"] == "reward_collapsed"
    assert judge(tables, {}, [check("fault", None)])["verdict"] == "reward_collapsed"
    assert judge(tables, {}, [check("fault", "wrong_base")])["action"] == ACTIONS["wrong_base"]


def test_a_fault_of_the_files_is_said_of_a_run_that_has_just_begun() -> None:
    found = judge(made((0,), relative_fro=0.0), {}, [check("fault", "wrong_base")], only_start=True)
    assert found["verdict"] == "wrong_base"
    assert found["summary"].startswith("Wrong base: ")


def test_locked_and_learning_is_healthy_and_locked_and_flat_is_not() -> None:
    assert judge(made(STEPS, share=0.7, series=log(reward=noisy(RISING))), {})["verdict"] == "healthy"
    assert judge(made(STEPS, share=0.7, series=log(reward=noisy(FLAT))), {})["verdict"] == "principal_locked"
    assert judge(made(STEPS, share=0.1, series=log(reward=noisy(FLAT))), {})["verdict"] == "not_learning"


def test_a_healthy_run_names_no_first_signal() -> None:
    entropy = np.linspace(0.6, 0.15, 60)
    found = judge(made(STEPS, series=log(reward=noisy(RISING), entropy=entropy)), {})
    assert (found["verdict"], found["first_signal"]) == ("healthy", None)
    assert [signal["signal"] for signal in found["signals"]] == ["entropy"]
