"""Entropy that is gone, and reward that fell."""

from typing import Any

import numpy as np
import pytest

from spectra.analysis.verdict.rules.policy import entropy_collapsed, reward_collapsed
from tests.analysis.verdict.rules.rule_tables import FLAT, RISING, log, made, noisy

GONE = np.array([0.6] * 25 + [0.02] * 35)
STOPS = np.concatenate([np.linspace(0.3, 0.6, 25), np.full(35, 0.6)])


@pytest.mark.parametrize(
    ("entropy", "reward", "verdict"),
    [
        (GONE, STOPS, "entropy_collapsed"),
        (GONE, None, "entropy_collapsed"),
        (GONE, RISING, None),
        (GONE, np.concatenate([np.linspace(0.3, 0.98, 25), np.full(35, 0.98)]), None),
        (np.linspace(0.6, 0.2, 60), STOPS, None),
        (np.array([0.6] * 50 + [0.05] * 2 + [0.6] * 8), STOPS, None),
        (np.full(60, 0.01), STOPS, None),
    ],
    ids=["gone", "no reward", "still rising", "solved", "a third left", "it came back", "low from the start"],
)
def test_entropy(entropy: Any, reward: Any, verdict: str | None) -> None:
    curves = {"entropy": entropy * np.exp(0.05 * np.random.default_rng(1).normal(size=60))}
    if reward is not None:
        curves["reward"] = noisy(reward, noise=0.01)
    found = entropy_collapsed(made(series=log(**curves)))
    assert found.verdict == verdict
    if verdict:
        assert found.onset == found.evidence[0].first_step
        assert 25 <= found.evidence[0].first_step <= 27


def test_a_collapse_of_the_reward_is_dated_by_the_middle_of_the_fall() -> None:
    reward = [0.3] * 10 + [0.7] * 20 + list(np.linspace(0.7, 0, 11)) + [0.0] * 19
    found = reward_collapsed(made(series=log(reward=noisy(reward))))
    assert found.verdict == "reward_collapsed"
    assert abs((found.onset or 0) - 36) <= 3


SMALL_FALLS = [0.01 * step for step in range(1, 31)]


def test_a_fall_short_of_half_is_dated_too() -> None:
    found = reward_collapsed(made(series=log(reward=noisy([0.8] * 30 + [0.55] * 30))))
    assert (found.verdict, found.onset) == ("reward_collapsed", 31)


@pytest.mark.parametrize("reward", [RISING, FLAT])
def test_rewards_that_do_not_fall(reward: tuple[float, ...]) -> None:
    assert reward_collapsed(made(series=log(reward=noisy(reward)))).verdict is None


@pytest.mark.parametrize(
    "reward",
    [noisy([0.98] * 30 + [0.96] * 30, noise=0.004), [1.0] * 29 + [0.98], noisy([0.6] * 30 + [0.57] * 30, noise=0.005)],
    ids=["under the ceiling", "one answer", "a twentieth"],
)
def test_a_fall_by_less_than_a_tenth_is_mentioned_and_no_collapse(reward: Any) -> None:
    found = reward_collapsed(made(series=log(reward=reward)))
    assert (found.verdict, found.onset) == (None, None)
    assert "no collapse" in found.evidence[0].says


def test_a_fall_as_flat_curves_have_it_is_mentioned_and_no_collapse() -> None:
    rewards = [noisy([0.5] * 30 + [0.5 - fall] * 30, noise=0.06) for fall in SMALL_FALLS]
    found = [reward_collapsed(made(series=log(reward=reward))) for reward in rewards]
    said = [outcome.evidence[0].says for outcome in found if outcome.evidence and outcome.verdict is None]
    assert sum("flat curves sometimes fall this far by chance" in says for says in said) >= 2
    assert (found[0].verdict, found[-1].verdict) == (None, "reward_collapsed")


@pytest.mark.parametrize(("low", "high"), [(0.02, 0.8), (0.55, 0.8)])
def test_a_fall_in_few_lines_is_mentioned_and_no_collapse(low: float, high: float) -> None:
    found = reward_collapsed(made(series=log(every=10, reward=[high, high - 0.01] * 3 + [low, low + 0.01] * 2 + [low])))
    assert found.verdict is None
    assert "11 logged lines are too few to judge" in found.evidence[0].says


@pytest.mark.parametrize(("most", "verdict"), [(1, None), (2, None), (1.7, None)])
def test_a_solved_run_needs_no_entropy_whatever_its_ceiling(most: float, verdict: str | None) -> None:
    rng = np.random.default_rng(0)
    reward = np.minimum(most * np.minimum(np.linspace(0.3, 1.4, 100), 0.99) + 0.004 * rng.normal(size=100), most)
    entropy = np.where(np.arange(100) < 60, 1 - np.arange(100) / 62, 0.03) * np.exp(0.03 * rng.normal(size=100))
    assert entropy_collapsed(made(series=log(reward=reward, entropy=entropy))).verdict == verdict


def test_entropy_of_few_lines_is_not_judged() -> None:
    entropy = np.array([0.6, 0.61, 0.6, 0.59, 0.6, 0.61] + [0.02, 0.021, 0.02, 0.019, 0.02, 0.021])
    assert entropy_collapsed(made(series=log(every=10, entropy=entropy))).verdict is None
