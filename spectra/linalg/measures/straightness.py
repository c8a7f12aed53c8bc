"""Linearity of a training trajectory: pooled R² of ΔW_s against the step s, computed exactly.

With n snapshots at steps s and the Gram matrix G of their updates, one linear fit over all entries (one intercept and
one slope per entry, as arXiv 2601.04537 fits w(t) against t) has

    R² = cᵀGc / (cᵀc · (tr G − 1ᵀG1/n)),   c = s − mean(s),

pooled: from sums of squares over all entries, not a mean of R² per entry.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

_EPS = torch.finfo(torch.float64).eps
# Rows per block, so that no third matrix is formed.
_ROWS = 256


def straightness(steps: Sequence[int], gram: Float64[Tensor, "t t"]) -> float:
    """Return the pooled R² of a linear fit of updates against the step, from their inner products.

    Range 0 to 1; NaN for a single snapshot, or if all updates are equal.

    Parameters
    ----------
    steps
        T steps, distinct.
    gram
        ⟨ΔW_s, ΔW_t⟩, T × T.
    """
    time = torch.tensor(steps, dtype=torch.float64)
    centered = time - time.mean()
    total, trace = float(gram.trace() - gram.mean() * len(steps)), float(gram.trace())
    return _resolved_ratio(
        float(centered @ gram @ centered), float(centered @ centered) * total, _noise(centered, trace)
    )


def random_walk_straightness(steps: Sequence[int]) -> float:
    """Return the R² of a random walk with independent directions: E⟨ΔW_s, ΔW_t⟩ = min(s, t) in place of G.

    This is the ratio of the expectations, which the ratio itself approaches in many dimensions. It is 0.6 for many
    equally spaced snapshots: most of what looks like a straight path is what any random walk has.
    """
    time = torch.tensor(steps, dtype=torch.float64)
    return straightness(steps, torch.minimum(time[:, None], time[None, :]))


class StreamedStraightness:
    """The R² of :func:`straightness` for dense updates that arrive one by one; keeps their mean and co-moment only.

    Both are updated by differences from the running mean (Welford 1962), so that updates far from zero keep their
    digits.
    """

    def __init__(self) -> None:
        self._times: list[float] = []
        self._trace = self._total = 0.0
        self._mean: Tensor | None = None
        self._moment: Tensor | None = None

    def add(self, step: int, update: Float64[Tensor, "o i"]) -> float:
        """Add the next update and return the R² over all updates so far."""
        if self._mean is None or self._moment is None:
            self._mean, self._moment = torch.zeros_like(update), torch.zeros_like(update)
        self._times.append(float(step))
        self._trace += float(update.reshape(-1) @ update.reshape(-1))
        centered = torch.tensor(self._times, dtype=torch.float64)
        centered -= centered.mean()
        self._take(update, self._mean, self._moment, float(centered[-1]))
        explained = float(torch.linalg.vector_norm(self._moment)) ** 2
        spread = float(centered @ centered)
        return _resolved_ratio(explained, spread * self._total, _noise(centered, self._trace))

    def _take(self, update: Tensor, mean: Tensor, moment: Tensor, time: float) -> None:
        count = len(self._times)
        for start in range(0, len(update), _ROWS):
            chosen = slice(start, start + _ROWS)
            moved = update[chosen] - mean[chosen]
            moment[chosen].add_(moved, alpha=time)
            mean[chosen].add_(moved, alpha=1 / count)
            self._total += float((moved**2).sum()) * (count - 1) / count


def _noise(centered: Tensor, trace: float) -> float:
    """Return the value below which the denominator is rounding: the updates are all equal."""
    return 16 * len(centered) * _EPS * float(centered @ centered) * trace


def _resolved_ratio(part: float, whole: float, noise: float) -> float:
    return min(max(part / whole, 0.0), 1.0) if whole > noise else float("nan")
