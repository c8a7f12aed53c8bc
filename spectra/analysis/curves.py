"""Changes of a training curve: whether it rose or collapsed, and since when."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

# A window of an eighth of the run, at least three steps: long enough to average noise, short enough to date an onset.
_WINDOW_SHARE = 8
_WINDOW_LEAST = 3
COLLAPSE_Z = 4.5
_CLIP = 3.0
# Stronger autocorrelation than this is a change of the policy, not noise of the batches.
_MOST_MEMORY = 0.6
# Standard errors subtracted from the estimated autocorrelation: with more, flat curves of AR(0.5) noise look changed
# (z over 3 in 8 % of them instead of 2.5 %); with none, short curves of white noise lose power.
_MEMORY_MARGIN = 0.5

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """Mean of a curve's first and last window.

    Attributes
    ----------
    start, end
        Means of the windows.
    z
        (end − start) / standard error; the null, no change, is near a standard normal.
    lines
        Number of logged lines.
    """

    start: float
    end: float
    z: float
    lines: int


@dataclass(frozen=True)
class Collapse:
    """A fall from the best window to the last.

    Attributes
    ----------
    best, end
        Means of the best and of the last window.
    threshold
        Half-way between the curve's floor and its best window.
    z
        (end − best) / standard error.
    onset
        Middle of the fall, see :func:`changepoint`.
    """

    best: float
    end: float
    threshold: float
    z: float
    onset: int


@dataclass(frozen=True)
class Shift:
    """A lasting change from the initial level of a curve.

    Attributes
    ----------
    start, end
        Medians of the first and of the last window: single spikes do not move them.
    z
        Difference of the windows' means / standard error.
    onset
        Middle of the change, see :func:`changepoint`.
    """

    start: float
    end: float
    z: float
    onset: int


def window(count: int) -> int:
    """Return the length of a window over ``count`` logged steps.

    >>> window(60), window(10)
    (7, 3)
    """
    return max(_WINDOW_LEAST, count // _WINDOW_SHARE)


def curve(series: pd.DataFrame, name: str) -> pd.Series:
    """Return the finite values of one column by step; empty if it was not logged."""
    if name not in series.columns:
        return pd.Series(dtype="float64")
    values = series.set_index("step")[name].astype("float64")
    return values[np.isfinite(values)]


def change(values: pd.Series) -> Change | None:
    """Return how a curve changed from its first to its last window; None for fewer lines than two windows."""
    size = window(len(values))
    if len(values) < 2 * size:
        return None
    first, last = values.iloc[:size], values.iloc[-size:]
    return Change(float(first.mean()), float(last.mean()), _z(values, first, last), len(values))


def collapse(values: pd.Series) -> Collapse | None:
    """Return how a curve fell below half of its best window, None if it did not, or if noise explains it.

    The floor of the curve is 0, or its lowest window if that is negative: half of a negative reward would be a rise.
    The fall counts from 4.5 standard errors on: the best window was chosen for being the best. Of simulated flat curves
    of 20 to 200 steps whose noise is half of their level or all of it, at most 1 in 2,000 with white noise and 0.2 to
    1.6 % with AR(0.5) noise looked collapsed.
    """
    size = window(len(values))
    if len(values) < 2 * size:
        return None
    means = values.rolling(size).mean().dropna()
    at = int(np.argmax(means.to_numpy()))
    best, last = values.iloc[at : at + size], values.iloc[-size:]
    floor = min(0.0, float(means.min()))
    threshold = floor + 0.5 * (float(best.mean()) - floor)
    z = _z(values, best, last)
    if float(last.mean()) >= threshold or z > -COLLAPSE_Z:
        return None
    return Collapse(float(best.mean()), float(last.mean()), threshold, z, changepoint(values.iloc[at:]))


def shift(values: pd.Series) -> Shift | None:
    """Return how a curve left the level of its first window for good, None if noise explains it.

    Counts from 4.5 standard errors on, whatever the size of the change: the caller judges the size.
    """
    found = change(values)
    if found is None or abs(found.z) < COLLAPSE_Z:
        return None
    size = window(len(values))
    start, end = float(values.iloc[:size].median()), float(values.iloc[-size:].median())
    return Shift(start, end, found.z, changepoint(values))


def changepoint(values: pd.Series) -> int:
    """Return the first step of the second of the two levels that fit a curve best, by least squares.

    For a jump, that is the jump; for a gradual change from one level to another, its middle. At least two values are
    needed.
    """
    numbers = values.to_numpy(dtype="float64")
    count = np.arange(1, len(numbers))
    before = np.cumsum(numbers)[:-1]
    after = numbers.sum() - before
    gap = before / count - after / (len(numbers) - count)
    gain = gap**2 * count * (len(numbers) - count)
    return int(values.index[int(np.argmax(gain)) + 1])


def _z(values: pd.Series, first: pd.Series, last: pd.Series) -> float:
    """Return the difference of two windows' means in standard errors, corrected for autocorrelated noise."""
    variance, memory = _noise(values.to_numpy())
    difference = float(last.mean() - first.mean())
    if variance == 0:
        return 0.0 if difference == 0 else math.copysign(math.inf, difference)
    inflation = (1 + memory) / (1 - memory)
    return difference / math.sqrt(variance * inflation * (1 / len(first) + 1 / len(last)))


def _noise(values: Numbers) -> tuple[float, float]:
    """Return variance and lag-1 autocorrelation of a curve's noise, from its successive differences.

    A trend hardly enters the differences (von Neumann 1941), and large ones are clipped so that a jump does not count
    as noise. For AR(1) noise with autocorrelation ρ their variance is 2σ²(1 − ρ) and their own lag-1 autocorrelation
    −(1 − ρ)/2; an autocorrelation below 0 is taken as 0.
    """
    steps = np.diff(values)
    size = 1.4826 * float(np.median(np.abs(steps)))
    if size == 0:  # constant except for a few steps: noise and jumps cannot be separated
        return float((steps**2).mean()) / 2, 0.0
    steps = np.clip(steps, -_CLIP * size, _CLIP * size)
    total = float((steps**2).sum())
    # The estimate errs by 1.41/√n for white noise.
    memory = 1 + 2 * float((steps[1:] * steps[:-1]).sum()) / total - _MEMORY_MARGIN * math.sqrt(2 / len(values))
    memory = min(max(memory, 0.0), _MOST_MEMORY)
    return total / len(steps) / 2 / (1 - memory), memory
