"""What a training curve says: did it rise, did it collapse, and since when."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

# A window of an eighth of the run, at least three steps: long enough to average noise, short enough to date an onset.
_WINDOW_SHARE = 8
_WINDOW_LEAST = 3
_COLLAPSE_Z = 5.0


@dataclass(frozen=True)
class Change:
    """Mean of a curve's first and last window.

    Attributes
    ----------
    start, end
        Means of the windows.
    z
        (end − start) / standard error; the null, no change, is near a standard normal.
    steps
        Logged steps.
    """

    start: float
    end: float
    z: float
    steps: int


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
        First step from which the curve stays under the threshold.
    """

    best: float
    end: float
    threshold: float
    z: float
    onset: int


def window(count: int) -> int:
    """Return the length of a window over ``count`` logged steps.

    >>> window(60), window(10)
    (7, 3)
    """
    return max(_WINDOW_LEAST, count // _WINDOW_SHARE)


def curve(series: pd.DataFrame, name: str) -> pd.Series:
    """Return the finite values of one column by step; empty where it was not logged."""
    if name not in series.columns:
        return pd.Series(dtype="float64")
    values = series.set_index("step")[name].astype("float64")
    return values[np.isfinite(values)]


def change(values: pd.Series) -> Change | None:
    """Return how a curve changed from its first to its last window; None under two windows of steps."""
    size = window(len(values))
    if len(values) < 2 * size:
        return None
    first, last = values.iloc[:size], values.iloc[-size:]
    return Change(float(first.mean()), float(last.mean()), _z(values, first, last), len(values))


def collapse(values: pd.Series) -> Collapse | None:
    """Return how a curve fell under half of its best window, None where it did not, or where noise explains it.

    The curve's floor is 0, or its least value where that is negative: half of a negative reward would be a rise.
    The fall counts from five standard errors on: the best window was chosen among many for being the best.
    """
    size = window(len(values))
    if len(values) < 2 * size:
        return None
    means = values.rolling(size).mean().dropna()
    at = int(np.argmax(means.to_numpy()))
    best, last = values.iloc[at : at + size], values.iloc[-size:]
    floor = min(0.0, float(values.min()))
    threshold = floor + 0.5 * (float(best.mean()) - floor)
    z = _z(values, best, last)
    if float(last.mean()) >= threshold or z > -_COLLAPSE_Z:
        return None
    over = np.flatnonzero((means >= threshold).to_numpy())
    onset = int(means.index[min(int(over[-1]) + 1, len(means) - 1)])
    return Collapse(float(best.mean()), float(last.mean()), threshold, z, onset)


def _z(values: pd.Series, first: pd.Series, last: pd.Series) -> float:
    """Return the difference of two windows' means in standard errors.

    The step-to-step noise comes from successive differences over the whole curve (von Neumann 1941): a trend hardly
    enters it, and it has many more degrees of freedom than two short windows.
    """
    noise = float((np.diff(values.to_numpy()) ** 2).mean()) / 2
    difference = float(last.mean() - first.mean())
    if noise == 0:
        return 0.0 if difference == 0 else math.copysign(math.inf, difference)
    return difference / math.sqrt(noise * (1 / len(first) + 1 / len(last)))
