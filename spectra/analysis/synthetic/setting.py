"""Setting of a synthetic run, whatever its fault: shapes, spectra, formats, schedules and noise, from a seed."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from spectra.analysis.curves import window
from spectra.analysis.synthetic.truths import Truth

Spectrum = Literal["flat", "power", "steep"]
Stored = Literal["adapter", "full"]
Style = Literal["spectra", "trainer"]
# Looks like a fault, but is none: a rank of one throughout; a solved task without entropy; a reward that dips and
# recovers; an update that is complete before the first snapshot.
Quirk = Literal["none", "rank_one", "solved", "dip", "early"]

# These faults are dated by snapshots, so there must be snapshots before and after.
_DATED_BY_WEIGHTS = ("rank_collapsing", "diverging")
# Only our own trainer logs how far the frozen weights moved; only foreign runs can meet another base unnoticed.
_STYLES: dict[Truth, Style] = {"merge_drift": "spectra", "wrong_base": "trainer"}


@dataclass(frozen=True)
class Setting:
    """Setting of one run.

    Attributes
    ----------
    width, layers
        Columns of the attention matrices, and number of layers.
    rank
        Rank of the update.
    spectrum, exponent
        Singular values of the base: nearly equal, a power law of the index, or an exponential fall.
    dtype
        ``float32`` or ``bfloat16``, in which the base and full checkpoints are stored; adapters are float32.
    stored
        Adapters or full checkpoints.
    style
        Our own run directory, or an HF Trainer's.
    steps, every
        Optimizer steps, and steps between two lines of the log.
    snapshots
        Steps with a snapshot, without step 0.
    size
        ‖ΔW‖/‖W‖ at the end.
    growth
        Exponent of ‖ΔW‖ over steps.
    noise, memory
        Standard deviation of the logged reward at 1/2, and lag-1 autocorrelation of all noise.
    signed
        Whether rewards are −1 and 1 instead of 0 and 1.
    quirk
        A property of a healthy run that looks like a fault.
    near
        Whether values are near the thresholds instead of clear of them.
    """

    width: int
    layers: int
    rank: int
    spectrum: Spectrum
    exponent: float
    dtype: str
    stored: Stored
    style: Style
    steps: int
    every: int
    snapshots: tuple[int, ...]
    size: float
    growth: float
    noise: float
    memory: float
    signed: bool
    quirk: Quirk
    near: bool

    @property
    def logged(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The logged steps."""
        return np.arange(self.every, self.steps + 1, self.every)

    def resolution(self, step: int) -> int:
        """Return the steps from the snapshot before ``step`` to the one at or after it."""
        before = max((s for s in self.snapshots if s < step), default=0)
        return min((s for s in self.snapshots if s >= step), default=self.steps) - before


def draw_setting(truth: Truth, rng: np.random.Generator, *, near: bool) -> Setting:
    """Draw the setting of a run; the fault constrains it only where detection requires it."""
    stored: Stored = "full" if rng.random() < 0.4 else "adapter"
    dtype = "bfloat16" if rng.random() < 0.5 else "float32"
    every = int(rng.choice([5, 10, 25] if truth == "few_lines" else [1, 1, 2, 5]))
    steps = every * int(rng.integers(6, 16) if truth == "few_lines" else rng.integers(40, 241))
    style: Style = "spectra" if rng.random() < 0.5 else "trainer"
    least, most = _sizes(truth, stored, dtype)
    spectrum: Spectrum = rng.choice(["flat", "power", "steep"])
    memory = float(rng.uniform(0, 0.5))
    noise = float(rng.uniform(0.01, 0.08))
    # A solved task is learned beyond doubt, so it is never near a threshold.
    quirks = [quirk for quirk in get_args(Quirk) if not (near and quirk == "solved")]
    quirk: Quirk = str(rng.choice(quirks)) if truth == "healthy" else "none"  # type: ignore[assignment]
    return Setting(
        width=int(rng.choice([20, 24, 32])),
        layers=int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1])),
        rank=1 if quirk == "rank_one" else int(rng.choice([4, 6, 8])),
        spectrum=spectrum,
        exponent=float(rng.uniform(0.3, 0.8) if spectrum == "power" else rng.uniform(2, 6)),
        dtype=dtype,
        stored=stored,
        style=_STYLES.get(truth, style),
        steps=steps,
        every=every,
        snapshots=_schedule(truth, steps, rng),
        size=float(np.exp(rng.uniform(np.log(least), np.log(most)))),
        growth=0.02 if quirk == "early" else float(rng.uniform(0.5, 1.0)),
        noise=min(noise, _most_noise(steps // every, memory, 0.12 if truth == "few_lines" else 0.3)),
        memory=memory,
        signed=bool(rng.random() < 0.15) and quirk != "solved",
        quirk=quirk,
        near=near,
    )


def _sizes(truth: Truth, stored: Stored, dtype: str) -> tuple[float, float]:
    """Return the range of ‖ΔW‖/‖W‖: in full bfloat16 checkpoints storage alone adds 0.2 % to ΔW.

    The update must stand above that; an update that loses rank, already at the first snapshots.
    """
    if stored == "adapter" or dtype == "float32":
        return 1e-3, 5e-2
    return (5e-2, 2e-1) if truth == "rank_collapsing" else (1e-2, 5e-2)


def _most_noise(logged: int, memory: float, rise: float) -> float:
    """Return the largest noise with which a rise is seven standard errors between the first and the last window.

    In short logs the windows cover most of the run, and are closer together than its ends.
    """
    return rise / (7 * math.sqrt((1 + memory) / (1 - memory) * 2 / window(logged)))


def _schedule(truth: Truth, steps: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Return evenly or geometrically spaced steps up to the last one, the first in the first half."""
    dated = truth in _DATED_BY_WEIGHTS
    count = int(rng.integers(6, 11) if dated else rng.integers(2, 6))
    if dated or rng.random() < 0.6:
        spaced = np.linspace(0, steps, count + 1)[1:]
    else:
        spaced = np.geomspace(steps / 10, steps, count)
    return tuple(sorted({max(1, round(step)) for step in spaced.tolist()}))
