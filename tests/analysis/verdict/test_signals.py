"""Which signal broke first, on logs whose course is known."""

import numpy as np
import pytest

from spectra.analysis.verdict.signals import Signal, first_sign, signals
from tests.analysis.verdict.rules.rule_tables import RISING, log, made, noisy

STEPS = (10, 20, 30, 40, 50, 60)
FALLEN = noisy([0.6] * 40 + [0.05] * 20)


def level(before: float, after: float, step: int, noise: float = 0.03) -> np.ndarray:
    """Return 60 logged steps that jump after ``step``, with noise relative to the level."""
    values = np.array([before] * step + [after] * (60 - step))
    return values * (1 + noise * np.random.default_rng(step).normal(size=60))


def test_entropy_before_the_reward() -> None:
    found = signals(made(STEPS, series=log(reward=FALLEN, entropy=level(0.6, 0.2, 20, noise=1e-3))))
    assert [(signal.name, signal.onset_step) for signal in found] == [("entropy", 21), ("reward", 41)]
    assert first_sign(found, "reward_collapsed") == (
        "Entropy fell from 0.6 to 0.2 at step 21, 20 steps before the reward."
    )


def test_what_turns_back_after_the_reward_fell_is_still_seen() -> None:
    entropy = level(0.6, 0.2, 20)
    entropy[45:] = 0.9
    found = signals(made(STEPS, series=log(reward=FALLEN, entropy=entropy)))
    assert (found[0].name, found[0].onset_step) == ("entropy", 21)


@pytest.mark.parametrize(
    ("column", "name", "before", "after"),
    [
        ("zero_advantage_share", "zero_advantage_share", 0.3, 0.9),
        ("completion_length", "completion_length", 400.0, 1500.0),
        ("completion_length", "completion_length", 400.0, 100.0),
        ("clipped_completions", "clipped_completions", 0.1, 0.8),
        ("clip_ratio", "clip_ratio", 0.01, 0.2),
        ("sampler_mismatch", "sampler_mismatch", 0.01, 0.2),
        ("grad_norm", "grad_norm", 0.2, 4.0),
        ("entropy", "entropy", 0.3, 2.0),
    ],
)
def test_each_curve_of_the_log(column: str, name: str, before: float, after: float) -> None:
    found = signals(made(STEPS, series=log(reward=noisy(RISING), **{column: level(before, after, 30)})))
    assert [(signal.name, signal.onset_step) for signal in found] == [(name, 31)]


@pytest.mark.parametrize(
    ("column", "before", "after"),
    [
        ("completion_length", 400.0, 600.0),
        ("grad_norm", 4.0, 0.2),
        ("clip_ratio", 0.001, 0.005),
        ("zero_advantage_share", 0.1, 0.25),
        ("entropy", 0.6, 0.45),
    ],
)
def test_moves_that_do_not_matter(column: str, before: float, after: float) -> None:
    assert signals(made(STEPS, series=log(reward=noisy(RISING), **{column: level(before, after, 30)}))) == []


def test_single_spikes_are_no_signal() -> None:
    norms = np.abs(level(0.2, 0.2, 30, noise=0.2))
    norms[[7, 33, 58]] = 20.0
    assert signals(made(STEPS, series=log(grad_norm=norms))) == []


def test_the_weights_are_on_the_same_axis() -> None:
    tables = made(
        STEPS,
        series=log(reward=FALLEN),
        effective_rank_energy=lambda step: 3.5 if step < 30 else 1.2,
        top1_energy=lambda step: 0.4 if step < 30 else 0.96,
        relative_spectral=lambda step: 0.002 * step if step <= 30 else 0.06 * 2 ** ((step - 30) / 5),
    )
    found = {signal.name: signal.onset_step for signal in signals(tables)}
    assert found == {"effective_rank": 30, "top1_energy": 30, "update_size": 40, "reward": 41}


def test_one_signal_comes_before_none() -> None:
    assert first_sign([Signal("reward", 41, "the reward fell")], "reward_collapsed") == ""
    assert first_sign([], "healthy") == ""


def test_signals_at_one_step() -> None:
    found = [Signal("entropy", 41, "entropy fell"), Signal("grad_norm", 41, "the gradient norm rose")]
    assert first_sign(found, "diverging") == "Entropy fell at step 41, at the same step as the gradient norm."


def test_a_healthy_run_without_a_log_has_no_signals() -> None:
    assert signals(made(STEPS)) == []
