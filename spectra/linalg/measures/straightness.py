"""How straight the path of an update is: pooled R² of ΔW_s against the step s, in exact algebra.

With n snapshots at steps s and the Gram matrix G of their updates, the line through all entries at once (one intercept
and one slope an entry, as arXiv 2601.04537 fits w(t) against t) leaves

    R² = cᵀGc / (cᵀc · (tr G − 1ᵀG1/n)),   c = s − mean(s),

pooled: sums of squares over all entries, not a mean of each entry's own R².
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

_EPS = torch.finfo(torch.float64).eps
# Rows that are taken at a time, so that no third matrix is made.
_ROWS = 256


def straightness(steps: Sequence[int], gram: Float64[Tensor, "t t"]) -> float:
    """Return the pooled R² of a straight line through updates, from their inner products.

    Range 0 to 1; NaN for a single snapshot, or where nothing moves.

    Parameters
    ----------
    steps
        T steps, distinct.
    gram
        ⟨ΔW_s, ΔW_t⟩, T × T.
    """
    time = torch.tensor(steps, dtype=torch.float64)
    centred = time - time.mean()
    total, trace = float(gram.trace() - gram.mean() * len(steps)), float(gram.trace())
    return _ratio(float(centred @ gram @ centred), float(centred @ centred) * total, _noise(centred, trace))


def random_walk_straightness(steps: Sequence[int]) -> float:
    """Return what a walk gives whose steps have independent directions: E⟨ΔW_s, ΔW_t⟩ = min(s, t) in place of G.

    The ratio of the expectations, which the ratio itself approaches in many dimensions. 0.6 for many snapshots at
    equal distances: most of what passes for a straight path is what any walk has.
    """
    time = torch.tensor(steps, dtype=torch.float64)
    return straightness(steps, torch.minimum(time[:, None], time[None, :]))


class Path:
    """The same R² for dense updates, given one after the other: two matrices are kept, their mean and co-moment.

    Both are updated by differences from the mean so far (Welford 1962), so that a path far from zero keeps its digits.
    """

    def __init__(self) -> None:
        self._times: list[float] = []
        self._trace = self._total = 0.0
        self._mean: Tensor | None = None
        self._moment: Tensor | None = None

    def add(self, step: int, update: Float64[Tensor, "o i"]) -> float:
        """Take the next update and return R² over all until now."""
        if self._mean is None or self._moment is None:
            self._mean, self._moment = torch.zeros_like(update), torch.zeros_like(update)
        self._times.append(float(step))
        self._trace += float(update.reshape(-1) @ update.reshape(-1))
        centred = torch.tensor(self._times, dtype=torch.float64)
        centred -= centred.mean()
        self._take(update, self._mean, self._moment, float(centred[-1]))
        explained = float(torch.linalg.vector_norm(self._moment)) ** 2
        spread = float(centred @ centred)
        return _ratio(explained, spread * self._total, _noise(centred, self._trace))

    def _take(self, update: Tensor, mean: Tensor, moment: Tensor, time: float) -> None:
        count = len(self._times)
        for start in range(0, len(update), _ROWS):
            chosen = slice(start, start + _ROWS)
            moved = update[chosen] - mean[chosen]
            moment[chosen].add_(moved, alpha=time)
            mean[chosen].add_(moved, alpha=1 / count)
            self._total += float((moved**2).sum()) * (count - 1) / count


def _noise(centred: Tensor, trace: float) -> float:
    """Return the size under which the denominator is rounding: the updates are all the same."""
    return 16 * len(centred) * _EPS * float(centred @ centred) * trace


def _ratio(part: float, whole: float, noise: float) -> float:
    return min(max(part / whole, 0.0), 1.0) if whole > noise else float("nan")
