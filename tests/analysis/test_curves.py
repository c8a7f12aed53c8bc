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
    assert found.onset == 31


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


def test_a_changepoint_is_a_jump_or_the_middle_of_a_move() -> None:
    assert curves.changepoint(pd.Series([1.0] * 7 + [0.0] * 3, index=range(10, 110, 10))) == 80
    ramp = noisy([0.8] * 30 + list(np.linspace(0.8, 0.2, 21)) + [0.2] * 30)
    assert abs(curves.changepoint(ramp) - 41) <= 2


def test_a_shift_is_lasting_and_beyond_the_noise() -> None:
    found = curves.shift(noisy([0.3] * 20 + [0.6] * 40))
    assert found is not None
    assert (found.onset, found.z > 0) == (21, True)
    assert curves.shift(noisy([0.3] * 20 + [0.6] * 20 + [0.3] * 20)) is None
    assert curves.shift(noisy([0.3] * 60)) is None


def remembering(count: int, memory: float, seed: int) -> pd.Series:
    rng = np.random.default_rng(seed)
    values = [rng.normal()]
    for _ in range(count - 1):
        values.append(memory * values[-1] + np.sqrt(1 - memory**2) * rng.normal())
    return pd.Series(0.4 + 0.03 * np.array(values), index=range(1, count + 1))


def test_noise_that_remembers_is_hardly_called_a_change() -> None:
    """AR(0.5) noise of 120 steps: |z| over 3 in few of 400 flat curves."""
    zs = [found.z for seed in range(400) if (found := curves.change(remembering(120, 0.5, seed))) is not None]
    assert sum(abs(z) > 3 for z in zs) <= 16
