"""Did weights move, was there a gradient, did the reward rise, does bfloat16 show it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from spectra.analysis.verdict.rules.learning import at_ceiling, flat, invisible, is_share, learns, silent, still
from spectra.runs.tables import COORDINATES, conform
from tests.analysis.verdict.rules.rule_tables import FLAT, MODULE_NAMES, RISING, log, made, noisy


def test_weights_that_did_not_move() -> None:
    assert still(made(relative_fro=0.0)).verdict == "not_learning"
    assert still(made(relative_fro=1e-8)).verdict == "not_learning"
    assert still(made(relative_fro=lambda step: np.nan)).verdict is None
    assert still(made()).verdict is None


@pytest.mark.parametrize(
    ("share", "reward", "verdict"), [(0.97, 0.02, "not_learning"), (0.97, 0.99, None), (0.5, 0.3, None)]
)
def test_groups_without_a_gradient(share: float, reward: float, verdict: str | None) -> None:
    found = silent(made(series=log(zero_advantage_share=[share] * 60, reward=[reward] * 60)))
    assert found.verdict == verdict
    assert found.evidence[0].value == pytest.approx(share)


@pytest.mark.parametrize(
    ("reward", "expected", "verdict"),
    [
        (RISING, True, None),
        (FLAT, False, "not_learning"),
        ([0.99] * 60, True, None),
        ([0.3] * 10, None, None),
        ([], None, None),
    ],
    ids=["rising", "flat", "solved", "short", "nothing"],
)
def test_rewards(reward: list[float], expected: bool | None, verdict: str | None) -> None:
    tables = made(series=log(reward=noisy(reward, noise=0.005)))
    assert learns(tables) is expected
    assert flat(tables).verdict == verdict


@pytest.mark.parametrize("lines", range(6, 16))
def test_a_rise_in_few_lines_is_never_called_not_learning(lines: int) -> None:
    """TRL logs one line every 10 steps: 60 to 150 steps, and noise of 0.03 beside a rise by 0.6."""
    for seed in range(20):
        tables = made(series=log(every=10, reward=noisy(np.linspace(0.2, 0.8, lines), noise=0.03, seed=seed)))
        found = flat(tables)
        assert (learns(tables) is False, found.verdict) == (False, None)
        assert f"{lines} logged lines are too few to judge" in found.evidence[0].says


def test_it_is_lines_that_are_counted_and_not_steps() -> None:
    assert learns(made(series=log(every=10, reward=noisy(FLAT[:19])))) is None
    assert learns(made(series=log(every=1, reward=noisy(FLAT[:20])))) is False


def test_a_plateau_whose_ceiling_is_not_known_is_no_fault_and_said() -> None:
    near = 1.94 + 0.02 * np.random.default_rng(0).normal(size=60)
    found = flat(made(series=log(reward=near, zero_advantage_share=[0.97] * 60)))
    assert found.verdict is None
    assert "may be its ceiling" in found.evidence[0].says
    assert silent(made(series=log(reward=near, zero_advantage_share=[0.97] * 60))).verdict is None
    apart = 1.2 + 0.1 * np.random.default_rng(0).normal(size=60)
    assert flat(made(series=log(reward=apart))).verdict == "not_learning"


@pytest.mark.parametrize(
    ("level", "spread", "held"),
    [(0.5, 0.0, False), (0.99, 0.0, True), (2.0, 0.0, True), (-1.0, 0.0, False), (2.0, 0.1, False)],
)
def test_ceilings(level: float, spread: float, held: bool) -> None:
    reward = pd.Series(level + spread * (-1.0) ** np.arange(40))
    assert at_ceiling(reward, reward) is held
    assert not at_ceiling(reward, reward.iloc[:0])


def test_a_small_fall_is_not_told_to_learn_faster() -> None:
    found = flat(made(series=log(reward=noisy([0.6] * 30 + [0.57] * 30, noise=0.005))))
    assert found.verdict is None


def test_a_fact_is_dated_by_the_first_step_at_which_it_held() -> None:
    stopped = still(made((0, 10, 20, 40), relative_fro=lambda step: 1e-3 if step == 10 else 0.0))
    assert (stopped.onset, stopped.evidence[0].first_step) == (20, 20)
    assert still(made((0, 10, 20), relative_fro=0.0)).onset == 10
    rows = [
        {"step": step, "module": name, "unchanged_bf16": 0.5 if step == 10 else 0.999, "expected_unchanged_bf16": 0.9}
        for step in (10, 20, 40)
        for name in MODULE_NAMES
    ]
    frame = conform("coordinates", pd.DataFrame(rows).reindex(columns=list(COORDINATES)))
    assert invisible(dataclasses.replace(made(), coordinates=frame)).evidence[0].first_step == 20


def test_rewards_between_zero_and_one_are_shares() -> None:
    assert is_share(pd.Series([0.0, 1.0]))
    assert not is_share(pd.Series([-1.0, 1.0]))
    assert not is_share(pd.Series(dtype="float64"))


@pytest.mark.parametrize(("unchanged", "seen"), [(0.999, True), (0.9, False)])
def test_an_update_that_bfloat16_does_not_show_is_mentioned(unchanged: float, seen: bool) -> None:
    rows = [
        {"step": 40, "module": name, "unchanged_bf16": unchanged, "expected_unchanged_bf16": 0.95}
        for name in MODULE_NAMES
    ]
    frame = conform("coordinates", pd.DataFrame(rows).reindex(columns=list(COORDINATES)))
    found = invisible(dataclasses.replace(made(), coordinates=frame))
    assert found.verdict is None
    assert bool(found.evidence) is seen
    assert not seen or (found.evidence[0].value, found.evidence[0].null) == (unchanged, 0.95)
