"""Entropy that is gone, and reward that fell."""

from typing import Any

import numpy as np
import pytest

from spectra.analysis.rules.policy import entropy_collapsed, reward_collapsed
from tests.analysis.rules.frames import FLAT, RISING, log, made, noisy

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


def test_a_fall_short_of_half_is_dated_too() -> None:
    found = reward_collapsed(made(series=log(reward=noisy([0.8] * 30 + [0.55] * 30))))
    assert (found.verdict, found.onset) == ("reward_collapsed", 31)


@pytest.mark.parametrize("reward", [RISING, FLAT])
def test_rewards_that_do_not_fall(reward: tuple[float, ...]) -> None:
    assert reward_collapsed(made(series=log(reward=noisy(reward)))).verdict is None
