"""Masks over the entries of a base weight, and the overlap of two masks.

The principal mask selects the largest entries of the rank-k reconstruction of W, the low-magnitude mask those with the
smallest |W| ("The Path Not Taken", arXiv 2511.08567; α = k/q = 10 % is the main setting of arXiv 2606.13657). Counts
are exact: ties go to the first entries in row-major order.
"""

import math

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from spectra.linalg.decompositions.basis import Basis
from spectra.linalg.nulls.haar_moments import Null

FRACTION = 0.1

# Entries per block of rows: two or three blocks fit in a core's cache.
_BLOCK = 1 << 18

Mask = Bool[Tensor, "o i"]


def block_rows(columns: int) -> int:
    """Return how many rows of ``columns`` entries to process at a time."""
    return max(1, _BLOCK // max(columns, 1))


def principal_mask(
    weight: Float64[Tensor, "o i"], basis: Basis, fraction: float = FRACTION, rank_fraction: float = FRACTION
) -> Mask:
    """Return the mask of the largest entries of |W_k|, W_k the rank-k reconstruction of W.

    Parameters
    ----------
    weight
        W, O × I.
    basis
        Its singular basis.
    fraction
        α: share of the entries in the mask, rounded to a count.
    rank_fraction
        k/q: k = max(1, round(rank_fraction · q)).
    """
    return _first(
        reconstruction(weight, basis, max(1, round(rank_fraction * len(basis.sigma)))).abs_().neg_(), fraction
    )


def low_magnitude_mask(weight: Float64[Tensor, "o i"], fraction: float = FRACTION) -> Mask:
    """Return the mask of the smallest entries of |W|; ``fraction`` is their share."""
    return _first(weight.abs(), fraction)


def reconstruction(weight: Float64[Tensor, "o i"], basis: Basis, k: int) -> Float64[Tensor, "o i"]:
    """Return W_k = U_kU_kᵀW = WV_kV_kᵀ, from the side whose vectors are stored."""
    vectors = basis.vectors[:, :k]
    if basis.small_is_left:
        return vectors @ (vectors.T @ weight)
    return (weight @ vectors) @ vectors.T


def _first(scores: Tensor, fraction: float) -> Mask:
    """Return the mask of the round(fraction · n) entries of smallest score; ties go to the first."""
    count = round(fraction * scores.numel())
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    # A copy, so that it can be partitioned in place; torch's own selection would also keep indices.
    ranked = scores.clone(memory_format=torch.contiguous_format).view(-1).cpu().numpy()
    ranked.partition(count - 1)
    cut = float(ranked[count - 1])
    del ranked
    mask = (scores < cut).contiguous()
    tied = torch.nonzero((scores == cut).flatten())[: count - int(mask.sum()), 0]
    mask.view(-1)[tied] = True
    return mask


def density(mask: Mask) -> float:
    """Return |M|/n."""
    return int(mask.sum()) / mask.numel()


def visible_overlap(mask: Mask, visible: Mask) -> float:
    """Return |M ∩ V|/|V|; NaN for an empty V. Its chance value for a V that ignores the weights is the density."""
    return ratio(float((mask & visible).sum()), float(visible.sum()))


def coverage(mask: Mask, visible: Mask) -> float:
    """Return |M ∩ V|/|M|; NaN for an empty M. Its chance value for a V that ignores the weights is |V|/n."""
    return visible_overlap(visible, mask)


def enrichment(mask: Mask, visible: Mask) -> float:
    """Return overlap/density, 1 for a V that ignores the weights; NaN for an empty M or V."""
    return ratio(visible_overlap(mask, visible), density(mask))


def jaccard(first: Mask, second: Mask) -> float:
    """Return |A ∩ B|/|A ∪ B|, between 0 and 1; NaN for two empty masks."""
    return ratio(float((first & second).sum()), float((first | second).sum()))


def expected_jaccard(first: float, second: float, entries: int) -> Null:
    """Return the null of the Jaccard index of two masks of these densities, placed independently of each other.

    Mean p₁p₂/(p₁ + p₂ − p₁p₂). |A ∩ B| is hypergeometric, with variance n²/(n − 1)·p₁p₂(1 − p₁)(1 − p₂), and the
    index follows it with slope (p₁ + p₂)/(n(p₁ + p₂ − p₁p₂)²). Masks that depend on the weights, such as those of
    visible entries, overlap more than this: see ``BaseCoordinates.jaccard_null``.
    """
    both = first * second
    union = first + second - both
    if union <= 0 or entries < 2:
        return Null(math.nan, math.nan)
    variance = both * (1 - first) * (1 - second) / (entries - 1)
    return Null(both / union, math.sqrt(variance) * (first + second) / union**2)


def ratio(part: float, whole: float) -> float:
    """Return part/whole; NaN for a whole of 0."""
    return part / whole if whole else math.nan
