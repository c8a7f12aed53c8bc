"""Drift of stored weights when an update is merged into them and unmerged again.

peft's ``merge_adapter`` adds ΔW to the weights in place, ``unmerge_adapter`` subtracts it. In half precision both
round, and W + ΔW − ΔW is not W. Trainers that send merged weights to a sampler do this once per step. With fl the
rounding to the dtype of the weights, one cycle of peft 0.21 on LoRA is

    W ← fl( fl(W + ΔW) − fl(ΔW) ),

where ΔW has the dtype of the adapter (float32 unless configured otherwise); only ``safe_merge`` rounds it before it is
added. The map acts on each entry separately, so that the result for a sample of entries is exact.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# An entry that one cycle of a constant ΔW does not change never changes: once fewer than this share of the entries
# change, the simulation goes on with those alone.
_SPARSE = 0.5

Weights = Float[Tensor, "..."]
# Function of the cycle's number, counted from 1, that returns ΔW in that cycle.
UpdateByCycle = Callable[[int], Tensor]


@dataclass(frozen=True)
class Drift:
    """Difference between weights before and after.

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
    """Return the weights after one merge and one unmerge, as peft does for LoRA.

    Parameters
    ----------
    weight
        Stored weights, in their dtype.
    update
        ΔW of the same shape, in the dtype of the adapter.
    safe
        Whether to simulate ``safe_merge``.
    """
    merged = weight.clone()
    merged += update.to(weight.dtype) if safe else update
    merged -= update.to(weight.dtype)
    return merged


def simulate(
    weight: Weights, update: Weights | UpdateByCycle, dtype: torch.dtype, cycles: Iterable[int], *, safe: bool = False
) -> dict[int, Weights]:
    """Return the weights after given numbers of merges and unmerges.

    Parameters
    ----------
    weight
        Initial weights, of any shape; rounded to ``dtype`` first.
    update
        ΔW of the same shape, constant, or a function of the cycle's number, counted from 1. Its dtype is the adapter's.
    dtype
        Dtype in which training stores the weights.
    cycles
        Numbers of cycles after which to return the weights; 0 means before the first.
    safe
        As in :func:`merge_cycle`.

    Returns
    -------
    dict
        The weights in ``dtype``, by number of cycles.
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
    full, part, delta = start.flatten().clone(), start.flatten().clone(), update.flatten()
    indices = torch.arange(len(part), device=part.device)
    found = {0: start} if 0 in wanted else {}
    for cycle in range(1, last + 1):
        before, part = part, merge_cycle(part, delta, safe=safe)
        moved = part != before
        if cycle in wanted or float(moved.sum()) < _SPARSE * len(part):
            full[indices] = part
        if float(moved.sum()) < _SPARSE * len(part):
            indices, part, delta = indices[moved], part[moved], delta[moved]
        if cycle in wanted:
            found[cycle] = full.reshape(start.shape).clone()
    return found


def drift(before: Weights, after: Weights) -> Drift:
    """Return the difference of ``after`` and ``before``, in float64; NaN for weights without entries."""
    if not before.numel():
        return Drift(float("nan"), float("nan"), float("nan"))
    difference = after.double() - before.double()
    changed = float((difference != 0).double().mean())
    return Drift(float(difference.abs().max()), changed, float(torch.linalg.vector_norm(difference)))
