"""Parts of the base inside an update: the first or last singular block of W, added or missing.

A PiSSA or MiLoRA adapter on the pristine base adds the block it was made from a second time; a residual base without
its adapter lacks it. Both are D ≈ c·W_r with W_r the truncated base and c = ±1, and training does not make c so
large and so exact: an RLVR update has |c| of a few thousandths.

An initialization that was drawn again (``pissa_niter_N`` when it is loaded) leaves D = (Q₁Q₁ᵀ − Q₂Q₂ᵀ)·W, with Q₁ and
Q₂ the two drawn ranges, or the same from the right. If the spectrum is flat, D is not a block of W, but WᵀD
is symmetric.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from spectra.linalg.decompositions.basis import Factors
from spectra.linalg.operators.basic import Operator

End = Literal["first", "last"]

# Cosine between D and the block, the median over matrices. A random D of rank r has about √(r/q)/q.
COSINE = 0.3
# How far c may be from 1: training moves it by ‖ΔW‖/‖W_r‖.
SLOPE = 0.35
# Largest fraction of directions that counts as a block.
_LARGEST = 0.25
# Symmetric fraction for an initialization drawn again; 1/2 for a random D, and lower with a trained update on top.
SYMMETRIC = 0.85
# Scaled rows, columns or singular values of W are symmetric as well, but lie entirely along W.
_ALONG = 0.5


@dataclass(frozen=True)
class Block:
    """Overlap of a matrix D with a singular block of W.

    Attributes
    ----------
    end
        Whether the block is of the largest or of the smallest singular values.
    rank
        Number of triplets in it.
    cosine
        ⟨D, W_r⟩/(‖D‖‖W_r‖).
    slope
        c = ⟨D, W_r⟩/‖W_r‖².
    share
        ‖W_r‖/‖W‖.
    """

    end: End
    rank: int
    cosine: float
    slope: float
    share: float


def diagonal(change: Operator, basis: Factors) -> Float64[Tensor, " r"]:
    """Return uᵢᵀ D vᵢ for each singular triplet of the base."""
    return (basis.u * change.matmul(basis.v)).sum(0)


def block(change: Operator, basis: Factors, end: End, rank: int | None = None) -> Block:
    """Return the overlap of D with the block of a rank; None selects the rank with the largest |cosine|."""
    inner, sigma = diagonal(change, basis) * basis.s, basis.s**2
    if end == "last":
        inner, sigma = inner.flip(0), sigma.flip(0)
    products, norms = inner.cumsum(0), sigma.cumsum(0).sqrt()
    size = change.frobenius()
    cosines = products / (norms * size) if size > 0 else torch.zeros_like(products)
    largest = max(1, int(_LARGEST * len(sigma)))
    at = int(cosines[:largest].abs().argmax()) if rank is None else min(rank, len(sigma)) - 1
    whole = float(torch.linalg.vector_norm(basis.s))
    return Block(
        end,
        at + 1,
        float(cosines[at]),
        float(products[at] / norms[at] ** 2),
        float(norms[at]) / whole if whole else 0.0,
    )


def agreed(blocks: Iterable[Block], slope: float = 1.0) -> Block | None:
    """Return the median block if the matrices agree that it was added (slope 1) or subtracted (−1), else None."""
    found = list(blocks)
    if not found:
        return None
    cosine, steepness = median(b.cosine for b in found), median(b.slope for b in found)
    if cosine * slope < COSINE or abs(steepness - slope) > SLOPE:
        return None
    share, rank = median(b.share for b in found), int(median(b.rank for b in found))
    return Block(found[0].end, rank, cosine, steepness, share)


def symmetry(change: Operator, weight: Float64[Tensor, "o i"], basis: Factors) -> float:
    """Return the symmetric fraction of ‖WᵀD‖², or of ‖DWᵀ‖² if larger: 1 for D = P·W with symmetric P.

    0.0 if D scales rows, columns or singular values of W, as weight decay and magnitude vectors do.
    """
    dense = change.dense()
    energy = float((dense * dense).sum())
    along = (_along(dense, weight, 0), _along(dense, weight, 1), float((diagonal(change, basis) ** 2).sum()))
    if max(along) >= _ALONG * energy:
        return 0.0
    return max(_symmetric_share(weight.T @ dense), _symmetric_share(dense @ weight.T))


def _symmetric_share(square: Float64[Tensor, "n n"]) -> float:
    energy = float((square * square).sum())
    return 0.5 * (1 + float((square * square.T).sum()) / energy) if energy > 0 else 0.0


def _along(change: Float64[Tensor, "o i"], weight: Float64[Tensor, "o i"], axis: int) -> float:
    """Return the part of ‖D‖² that is a multiple of W's own columns (axis 0) or rows (axis 1)."""
    inner = (change * weight).sum(axis) ** 2
    return float((inner / (weight * weight).sum(axis).clamp_min(torch.finfo(torch.float64).tiny)).sum())
