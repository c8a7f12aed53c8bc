"""What merging an update into stored weights and taking it out again leaves behind.

peft's ``merge_adapter`` adds ΔW to the weights in place, ``unmerge_adapter`` subtracts it. In half precision both
round, and W + ΔW − ΔW is not W: trainers that push merged weights to a sampler do this once a step. With fl the
rounding to the dtype of the weights, one cycle of peft 0.21 on LoRA is

    W ← fl( fl(W + ΔW) − fl(ΔW) ),

where ΔW comes in the dtype of the adapter (float32 unless asked otherwise) and is rounded before it is added only by
``safe_merge``. The map acts on each entry alone, so that a sample of entries is exact on that sample.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# An entry that a cycle of a constant ΔW leaves as it was is left by all others: those that move are taken apart when
# they are fewer than this share.
_SPARSE = 0.5

Weights = Float[Tensor, "..."]
# From the number of a cycle, from 1, to ΔW then.
Growing = Callable[[int], Tensor]


@dataclass(frozen=True)
class Drift:
    """How far weights are from where they were.

    Attributes
    ----------
    max_abs
        Largest |W' − W|.
    changed
        Share of entries with W' ≠ W, in [0, 1].
    norm
        ‖W' − W‖_F.
    """

    max_abs: float
    changed: float
    norm: float


def merge_cycle(weight: Weights, update: Weights, *, safe: bool = False) -> Weights:
    """Return the weights after one merge and one unmerge, as peft does both on LoRA.

    Parameters
    ----------
    weight
        Stored weights, in their dtype.
    update
        ΔW of the same shape, in the dtype of the adapter.
    safe
        Whether ``safe_merge`` is asked for.
    """
    merged = weight.clone()
    merged += update.to(weight.dtype) if safe else update
    merged -= update.to(weight.dtype)
    return merged


def simulate(
    weight: Weights, update: Weights | Growing, dtype: torch.dtype, cycles: Iterable[int], *, safe: bool = False
) -> dict[int, Weights]:
    """Return the weights after so many merges and unmerges.

    Parameters
    ----------
    weight
        The weights before, of any shape; rounded to ``dtype`` first.
    update
        ΔW of the same shape, constant, or a function of the number of the cycle, from 1. Its dtype is the adapter's.
    dtype
        In which the weights are stored while training.
    cycles
        After how many cycles to look; 0 is the start.
    safe
        As in :func:`merge_cycle`.

    Returns
    -------
    dict
        For each number of cycles the weights in ``dtype``.
    """
    wanted = sorted(set(cycles))
    start = weight.detach().to(dtype)
    last = wanted[-1] if wanted else 0
    if isinstance(update, Tensor):
        return _constant(start, update.detach(), wanted, last, safe)
    found = {0: start} if 0 in wanted else {}
    current = start
    for cycle in range(1, last + 1):
        current = merge_cycle(current, update(cycle), safe=safe)
        if cycle in wanted:
            found[cycle] = current
    return found


def _constant(start: Tensor, update: Tensor, wanted: list[int], last: int, safe: bool) -> dict[int, Tensor]:
    whole, part, delta = start.flatten().clone(), start.flatten().clone(), update.flatten()
    places = torch.arange(len(part), device=part.device)
    found = {0: start} if 0 in wanted else {}
    for cycle in range(1, last + 1):
        before, part = part, merge_cycle(part, delta, safe=safe)
        moved = part != before
        if cycle in wanted or float(moved.sum()) < _SPARSE * len(part):
            whole[places] = part
        if float(moved.sum()) < _SPARSE * len(part):
            places, part, delta = places[moved], part[moved], delta[moved]
        if cycle in wanted:
            found[cycle] = whole.reshape(start.shape).clone()
    return found


def drift(before: Weights, after: Weights) -> Drift:
    """Return how far ``after`` is from ``before``, in float64; NaN for weights without entries."""
    if not before.numel():
        return Drift(float("nan"), float("nan"), float("nan"))
    difference = after.double() - before.double()
    changed = float((difference != 0).double().mean())
    return Drift(float(difference.abs().max()), changed, float(torch.linalg.vector_norm(difference)))
