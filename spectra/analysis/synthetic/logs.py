"""Synthetic training logs: known changes of each curve, with known onset and signal-to-noise ratio."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spectra.analysis.curves import window
from spectra.analysis.synthetic.setting import Setting
from spectra.analysis.synthetic.truths import EXPECTED, Truth
from spectra.analysis.synthetic.updates import Numbers, SyntheticUpdate

Levels = dict[str, Numbers]

# Size of a rise or fall between first and last window, in standard errors: clear of the noise, or near it.
_CLEAR = 7.0
_NEAR = (2.0, 5.0)
# Completions per group; equal rewards give no advantage.
_GROUP = 8
_PLATEAU = 0.85


@dataclass(frozen=True)
class Log:
    """The logged curves by canonical name, and the onset of the fault if it is in the log.

    Attributes
    ----------
    steps
        Logged steps.
    columns
        Values at these steps.
    onset
        Middle of the fall, or None.
    leader
        The signal that breaks first, in runs whose reward collapses; None in other runs.
    """

    steps: np.ndarray[tuple[int], np.dtype[np.int64]]
    columns: Levels
    onset: int | None = None
    leader: str | None = None


def build_log(truth: Truth, setting: Setting, update: SyntheticUpdate, rng: np.random.Generator) -> Log | None:
    """Return the log of a run, None if it has none."""
    if truth == "null_unlogged":
        return None
    steps = setting.logged
    at = steps / setting.steps
    middle = float(rng.uniform(0.3, 0.65))
    width = float(rng.uniform(0.005, 0.05))
    reward = _reward(truth, setting, update, rng, middle, width)
    leads = truth == "reward_collapsing" and bool(rng.random() < 0.5)
    entropy = _usual_entropy(at, rng)
    if truth == "entropy_collapsing":
        left = float(rng.uniform(0.06, 0.2) if setting.near else rng.uniform(0.005, 0.05))
        entropy *= 1 - (1 - left) * _fall(at, middle, width)
    elif setting.quirk == "solved":
        entropy = entropy[0] * (1 - float(rng.uniform(0.92, 0.99)) * _shape(at, rng))
    elif leads:  # not far enough for a fault of its own
        earlier = max(middle - float(rng.uniform(0.1, 0.2)), 0.15)
        entropy = entropy[0] * (1 - float(rng.uniform(0.65, 0.8)) * _fall(at, earlier, width))
    noisy = np.clip(reward + _noise(setting, rng) * _spread(reward, setting), 0, 1)
    silent = np.clip(_agreement(noisy) + 0.5 * setting.noise * _noise(setting, rng), 0, 1)
    columns: Levels = {
        "reward": 2 * noisy - 1 if setting.signed else noisy,
        "entropy": entropy * np.exp(rng.uniform(0.02, 0.1) * _noise(setting, rng)),
        "zero_advantage_share": silent,
        "completion_length": rng.uniform(50, 2000) * (1 + 0.3 * at) * np.exp(0.05 * _noise(setting, rng)),
        "grad_norm": rng.uniform(0.05, 2) * np.exp(0.3 * _noise(setting, rng)) * _spikes(len(at), rng),
        "clip_ratio": 0.002 * np.exp(0.5 * _noise(setting, rng)),
        "sampler_mismatch": 0.01 * np.exp(0.2 * _noise(setting, rng)),
    }
    kept = ("reward", "entropy") if truth in ("entropy_collapsing", "reward_collapsing") else ("reward",)
    columns = {name: values for name, values in columns.items() if name in kept or rng.random() < 0.8}
    if setting.style == "spectra" and (truth == "merge_drift" or rng.random() < 0.5):
        columns["frozen_drift"] = _drift(truth, setting, update, rng)
    dated = truth in ("entropy_collapsing", "reward_collapsing")
    leader = ("entropy" if leads else "reward") if truth == "reward_collapsing" else None
    return Log(steps, columns, round(middle * setting.steps) if dated else None, leader)


def _reward(
    truth: Truth, setting: Setting, update: SyntheticUpdate, rng: np.random.Generator, middle: float, width: float
) -> Numbers:
    """Return the level of the reward, between 0 and 1, redrawn until it has the required signal-to-noise ratio."""
    for _ in range(1000):
        level = _course(truth, setting, update, rng, middle, width)
        if _stands_out(truth, level, setting):
            return level
    raise AssertionError(f"no reward of {truth} stands out of noise {setting.noise:.3f}")


def _course(
    truth: Truth, setting: Setting, update: SyntheticUpdate, rng: np.random.Generator, middle: float, width: float
) -> Numbers:
    at = setting.logged / setting.steps
    start = float(rng.uniform(0.05, 0.6))
    least = 0.005 if setting.near else 0.15
    rising = start + float(np.exp(rng.uniform(math.log(least), math.log(0.39)))) * _shape(at, rng)
    if EXPECTED[truth] in ("not_learning", "principal_locked"):
        return np.full(len(at), start)
    if setting.quirk == "solved":
        return start + (float(rng.uniform(0.975, 0.99)) - start) * _shape(np.minimum(at / 0.7, 1), rng)
    if setting.quirk == "dip":
        return rising * (1 - 0.6 * (_fall(at, middle - 0.1, width) - _fall(at, middle + 0.1, width)))
    if truth == "reward_collapsing":
        left = rng.uniform(0.4, 0.65) if setting.near else rng.uniform(0, 0.3)
        return rising * (1 - (1 - left) * _fall(at, middle, width))
    if truth == "entropy_collapsing":
        return _without_entropy(at, start, rng, middle, width)
    if truth == "rank_collapsing" and update.onset is not None and rng.random() < 0.5:
        later = min(update.onset / setting.steps + float(rng.uniform(0.1, 0.2)), 0.9)
        return rising * (1 - float(rng.uniform(0.7, 1)) * _fall(at, later, 0.02))
    if truth == "diverging" and rng.random() < 0.7:
        size = np.array([update.size(float(step)) for step in setting.logged])
        return rising / (1 + (size / float(rng.uniform(0.5, 1))) ** 3)
    return rising


def _without_entropy(at: Numbers, start: float, rng: np.random.Generator, middle: float, width: float) -> Numbers:
    """Return a reward that rises while there is entropy, then stays, or falls later."""
    start = min(start, 0.4)
    held = np.minimum(at / middle, 1.0)
    level = start + (min(_PLATEAU, start + float(rng.uniform(0.2, 0.4))) - start) * held
    if rng.random() < 0.3:
        later = min(middle + 4 * width + float(rng.uniform(0.1, 0.2)), 0.85)
        level = level * (1 - float(rng.uniform(0.7, 1)) * _fall(at, later, 0.02))
    return level


def _stands_out(truth: Truth, level: Numbers, setting: Setting) -> bool:
    size = window(len(level))
    if EXPECTED[truth] in ("not_learning", "principal_locked"):
        return True
    spread = setting.noise * math.sqrt((1 + setting.memory) / (1 - setting.memory) * 2 / size)
    falls = truth == "reward_collapsing"
    best = (
        max(float(np.convolve(level, np.ones(size) / size, "valid").max()), 0) if falls else float(level[-size:].mean())
    )
    other = float(level[-size:].mean()) if falls else float(level[:size].mean())
    z = (best - other) / spread
    if EXPECTED[truth] == "healthy" or falls:
        return _NEAR[0] <= z <= _NEAR[1] if setting.near and not falls else z >= _CLEAR
    return True


def _usual_entropy(at: Numbers, rng: np.random.Generator) -> Numbers:
    """Return an entropy that falls with learning, as in healthy runs, and does not vanish."""
    return float(rng.uniform(0.15, 1.2)) * (1 - (1 - float(rng.uniform(0.25, 0.9))) * _shape(at, rng))


def _drift(truth: Truth, setting: Setting, update: SyntheticUpdate, rng: np.random.Generator) -> Numbers:
    """Return how far the frozen weights moved, logged at snapshots only."""
    if truth == "merge_drift":
        ratio = float(rng.uniform(0.06, 0.2) if setting.near else rng.uniform(0.2, 0.7))
    else:
        ratio = float(rng.choice([0.0, rng.uniform(0, 0.03)]))
    end = ratio * update.size(float(setting.steps))
    logged = np.isin(setting.logged, setting.snapshots)
    return np.where(logged, end * np.sqrt(setting.logged / setting.steps), np.nan)


def _shape(at: Numbers, rng: np.random.Generator) -> Numbers:
    """Return a curve from 0 to 1: linear, saturating, or sigmoid."""
    shapes: tuple[Callable[[Numbers], Numbers], ...] = (
        lambda x: x,
        lambda x: (1 - np.exp(-4 * x)) / (1 - math.exp(-4)),
        lambda x: 1 / (1 + np.exp(-12 * (x - 0.5))),
    )
    return shapes[int(rng.integers(len(shapes)))](at)


def _fall(at: Numbers, middle: float, width: float) -> Numbers:
    return 1 / (1 + np.exp(-np.clip((at - middle) / width, -60, 60)))


def _spikes(count: int, rng: np.random.Generator) -> Numbers:
    """Return factors of 1 with a few spikes of 20, as in gradients of single batches."""
    return np.where(rng.random(count) < 0.02, 20.0, 1.0)


def _agreement(reward: Numbers) -> Numbers:
    """Return the fraction of groups whose answers are all right or all wrong."""
    return reward**_GROUP + (1 - reward) ** _GROUP


def _spread(reward: Numbers, setting: Setting) -> Numbers:
    """Return the standard deviation of a mean of right and wrong answers: smaller near 0 and 1."""
    return setting.noise * (0.2 + 0.8 * np.sqrt(np.clip(4 * reward * (1 - reward), 0, 1)))


def _noise(setting: Setting, rng: np.random.Generator) -> Numbers:
    """Return AR(1) noise of unit variance."""
    fresh = rng.normal(size=len(setting.logged))
    out = np.empty_like(fresh)
    out[0] = fresh[0]
    for index in range(1, len(fresh)):
        out[index] = setting.memory * out[index - 1] + math.sqrt(1 - setting.memory**2) * fresh[index]
    return out
