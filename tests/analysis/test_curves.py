"""What is said of a training curve, on curves whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from spectra.analysis import curves


def noisy(levels: list[float], seed: int = 0, noise: float = 0.03) -> pd.Series:
    rng = np.random.default_rng(seed)
    return pd.Series(np.array(levels) + noise * rng.normal(size=len(levels)), index=range(1, len(levels) + 1))


def test_a_rise() -> None:
    found = curves.change(noisy(list(np.linspace(0.3, 0.8, 60))))
    assert found is not None
    assert (found.start, found.end) == (pytest.approx(0.325, abs=0.05), pytest.approx(0.775, abs=0.05))
    assert found.z > 5
    assert curves.collapse(noisy(list(np.linspace(0.3, 0.8, 60)))) is None


def test_a_collapse_is_dated() -> None:
    found = curves.collapse(noisy([0.3] * 10 + [0.7] * 20 + [0.05] * 30))
    assert found is not None
    assert found.best == pytest.approx(0.7, abs=0.05)
    assert 31 <= found.onset <= 38  # the window trails the fall by less than its length


def test_noise_is_no_collapse_and_no_rise() -> None:
    """500 flat runs near zero: hardly one may look collapsed, and z behaves like a standard normal."""
    flats = [noisy([0.05] * 60, seed=seed) for seed in range(500)]
    assert sum(curves.collapse(flat) is not None for flat in flats) <= 2
    zs = [found.z for flat in flats if (found := curves.change(flat)) is not None]
    assert len(zs) == 500
    assert sum(abs(z) > 3 for z in zs) <= 15


def test_short_noisy_curves_keep_their_power() -> None:
    """40 steps of small batches: a rise like full fine-tuning's is seen, and a fall is never called a rise."""
    rises = [curves.change(noisy(list(np.linspace(0.52, 0.84, 40)), seed=seed, noise=0.06)) for seed in range(200)]
    falls = [curves.change(noisy(list(np.linspace(0.4, 0.05, 40)), seed=seed, noise=0.06)) for seed in range(200)]
    assert sum(found is not None and found.z > 3 for found in rises) >= 190
    assert sum(found is not None and found.z < -3 for found in falls) >= 190


def test_negative_rewards_collapse_towards_their_floor() -> None:
    assert curves.collapse(noisy([-0.2] * 30 + [-1.0] * 30)) is not None
    assert curves.collapse(noisy(list(np.linspace(-1, -0.2, 60)))) is None


def test_too_few_steps_say_nothing() -> None:
    assert curves.change(noisy([0.1] * 5)) is None
    assert curves.collapse(noisy([0.5, 0.5, 0.0, 0.0])) is None


def test_constant_curves() -> None:
    flat = pd.Series([0.0] * 20, index=range(20))
    found = curves.change(flat)
    assert found is not None and found.z == 0
    step = pd.Series([1.0] * 20 + [0.0] * 20, index=range(40))
    fallen = curves.collapse(step)
    assert fallen is not None and fallen.z < -10


def test_a_column_that_was_not_logged_is_empty() -> None:
    series = pd.DataFrame({"step": [1, 2, 3], "reward": [0.1, np.nan, np.inf]})
    assert curves.curve(series, "reward").to_dict() == {1: 0.1}
    assert curves.curve(series, "entropy").empty
