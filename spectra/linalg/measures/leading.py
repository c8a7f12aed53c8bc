"""Leading singular triplets of an update, and the overlap of subspaces."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from spectra.linalg.decompositions.basis import Factors
from spectra.linalg.decompositions.tolerance import rank_tolerance
from spectra.linalg.operators.basic import LowRank, Operator, Sum, Transposed

# A Gram matrix squares σ: down to this fraction of σ₁ its eigenvectors keep nine digits, ε·(σ₁/σ)².
_GRAM_LIMIT = 1e-3


def is_factored(update: Operator) -> bool:
    """Return whether the structure of ΔW keeps its rank below min(O, I), so that its SVD comes from factors."""
    return update.rank_bound < min(update.shape)


def nonzero(factors: Factors) -> Factors:
    """Return the triplets above the rank tolerance; none for ΔW = 0."""
    if not len(factors.s):
        return factors
    floor = rank_tolerance(len(factors.u), len(factors.v), float(factors.s[0]))
    return first(factors, int((factors.s > floor).sum()))


def first(factors: Factors, count: int) -> Factors:
    """Return the first ``count`` triplets, or all if there are fewer."""
    return Factors(factors.u[:, :count], factors.s[:count], factors.v[:, :count])


def leading(matrix: Float64[Tensor, "o i"], count: int) -> Factors:
    """Return the ``count`` leading singular triplets of a dense matrix, at most as many as its numerical rank.

    They come from the eigenvectors of the small side's Gram matrix, several times faster than an SVD and as accurate
    for the largest values; from an exact SVD if the last of them is at most 1e-3·σ₁.

    Parameters
    ----------
    matrix
        ΔW, O × I, float64.
    count
        K.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    small, sigma = vectors.flip(1)[:, :count], values.flip(0)[:count].clamp(min=0).sqrt()
    if float(sigma[-1]) <= _GRAM_LIMIT * float(sigma[0]):
        return first(nonzero(_svd(matrix)), count)
    long = (wide.T @ small) / sigma
    return Factors(small, sigma, long) if wide is matrix else Factors(long, sigma, small)


def subspace_overlap(x: Float64[Tensor, "n k"], y: Float64[Tensor, "n l"]) -> float:
    """Return ‖XᵀY‖²_F/K, the share of span(X) that lies in span(Y); NaN for K = 0.

    Range 0 to 1; L/n for random subspaces of those dimensions. K = L = 16 gives the subspace convergence of
    arXiv 2606.07082.

    Parameters
    ----------
    x, y
        Orthonormal columns, n × K and n × L.
    """
    return float(((x.T @ y) ** 2).sum()) / x.shape[1] if x.shape[1] else float("nan")


def shared_spaces(x: Factors, y: Factors) -> tuple[float, float, int]:
    """Return the overlap of the left and right subspaces of two updates, and K, the smaller number of triplets."""
    count = min(len(x.s), len(y.s))
    return subspace_overlap(x.u[:, :count], y.u[:, :count]), subspace_overlap(x.v[:, :count], y.v[:, :count]), count


def cosine(inner: float, norms: float) -> float:
    """Return ⟨X, Y⟩/(‖X‖‖Y‖) from the inner product and the product of the norms; NaN if the latter is zero."""
    return min(max(inner / norms, -1.0), 1.0) if norms > 0 else float("nan")


def inner_product(x: Factors, y: Factors) -> float:
    """Return ⟨X, Y⟩ = tr(XᵀY) of two thin SVDs, from R × R products; no O × I matrix is formed."""
    return float(torch.einsum("r,rl,rl,l->", x.s, x.u.T @ y.u, x.v.T @ y.v, y.s))


def gram(updates: Sequence[Factors]) -> Float64[Tensor, "t t"]:
    """Return all inner products ⟨X_s, X_t⟩ of thin SVDs, in one product of their vectors, T·R × T·R."""
    u, v = torch.cat([x.u * x.s for x in updates], 1), torch.cat([x.v for x in updates], 1)
    owner = torch.repeat_interleave(torch.tensor([len(x.s) for x in updates], device=u.device))
    sums = u.new_zeros(len(updates), len(owner)).index_add_(0, owner, (u.T @ u) * (v.T @ v))
    return u.new_zeros(len(updates), len(updates)).index_add_(1, owner, sums).cpu()


def factor_spaces(update: Operator) -> tuple[Tensor | None, Tensor | None]:
    """Return orthonormal bases of the spans of ΔW's factors, O × R and I × R; None for a side whose factor is zero.

    The factors hold more than ΔW: LoRA initializes B = 0, so that ΔW = 0, but A already has a row space.
    """
    if isinstance(update, LowRank):
        return _space(update.b), _space(update.a.T)
    if isinstance(update, Transposed):
        left, right = factor_spaces(update.inner)
        return right, left
    if isinstance(update, Sum):
        (left, right), (other_left, other_right) = factor_spaces(update.left), factor_spaces(update.right)
        return _joined(left, other_left), _joined(right, other_right)
    factors = nonzero(update.svd())
    return _space(factors.u), _space(factors.v)


def _space(columns: Tensor) -> Tensor | None:
    if not bool((columns != 0).any()):
        return None
    return nonzero(_svd(columns)).u


def _joined(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return _space(torch.cat([one, other], 1))


def _svd(matrix: Tensor) -> Factors:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return Factors(u, s, vh.T)
