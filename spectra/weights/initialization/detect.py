"""What the tensors of an adapter say about its start, whatever its configuration says.

A start of PiSSA, OLoRA or MiLoRA takes a part out of W that is orthogonal to what it leaves. The checks use that: they
cost products with r columns, and see a start of another base at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from spectra.linalg.decompositions.basis import thin_svd
from spectra.linalg.operators.basic import Operator

Matrix = Float64[Tensor, "o i"]

# Share of a factor's space that must lie in W's first or last r singular directions to call it made of them. Chance
# gives r/n, and the row space of a trained plain LoRA stays near its random start.
_ALIGNED = 0.9
# ‖s·BA‖/‖W‖ that no update of an RLVR run comes near.
_LARGE = 0.05
# What is said of an adapter that holds singular directions of the base, by the method that begins so.
WORDS = {
    "milora": "A lies in the last singular directions of W, as MiLoRA starts",
    "pissa": "A and B lie in the first singular directions of W, as PiSSA starts",
}
# How far float32 and half-precision factors may be from an exact start, in units of ‖W‖.
_FLOAT32_TOLERANCE, _HALF_TOLERANCE = 1e-5, 1e-2
# Up to here a start that is named as such may be off: the base was loaded in half precision and stored in float32.
_NAMED_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Misfit:
    """How a start does not fit the base.

    Attributes
    ----------
    what
        In words.
    tolerable
        Whether rounding of the base explains it; then only a start that is named as such is believed.
    """

    what: str
    tolerable: bool


@dataclass(frozen=True)
class Factored:
    """One matrix of an adapter.

    Attributes
    ----------
    weight
        Base weight, O × I.
    b, a
        Factors, O × R and R × I.
    size
        ‖s·BA‖_F.
    """

    weight: Tensor
    b: Tensor
    a: Tensor
    size: float


def initial_misfit(init: str, pairs: Iterable[tuple[Matrix, Operator, bool]]) -> Misfit | None:
    """Return how an initial adapter does not fit the base, or None.

    Parameters
    ----------
    init
        The initialisation, in lower case.
    pairs
        Base weight, s·B₀A₀, and whether the factors are in half precision.
    """
    worst: Misfit | None = None
    for weight, removed, half in pairs:
        if not bool(weight.any()):  # nothing can be taken out of it
            continue
        distance = _distance(init, weight, removed)
        tolerance = _HALF_TOLERANCE if half else _FLOAT32_TOLERANCE
        if distance > tolerance:
            misfit = Misfit(
                f"s·B₀A₀ is {distance:.2g}·‖W‖ away from what {init} takes out of this base",
                distance <= _NAMED_TOLERANCE,
            )
            worst = misfit if worst is None or worst.tolerable else worst
    return worst


def residual_misfit(differences: Iterable[tuple[Matrix, Matrix, int]]) -> Misfit | None:
    """Return how a residual base does not fit, or None: W − W_res has rank r up to the rounding of W_res.

    Parameters
    ----------
    differences
        Base weight, W − W_res, and r.
    """
    for weight, difference, rank in differences:
        if not bool(weight.any()):
            continue
        sigma, norm = torch.linalg.svdvals(difference), torch.linalg.vector_norm(weight)
        rest = float(torch.linalg.vector_norm(sigma[rank:]) / norm)
        if rest > _NAMED_TOLERANCE:
            return Misfit(f"W − W_res has {rest:.2g}·‖W‖ beyond rank {rank}", tolerable=False)
        if float(sigma[0]) == 0.0:
            return Misfit("it is the base itself", tolerable=False)
    return None


def signature(looked_at: Iterable[Factored]) -> str | None:
    """Return in words that an adapter holds singular directions of the base, as its start did, or None.

    Parameters
    ----------
    looked_at
        Some of its matrices; all of them must agree, but for those on a base matrix of zeros: it has no directions.
    """
    words = {_signature(one) for one in looked_at if bool(one.weight.any())}
    return words.pop() if len(words) == 1 else None


def _signature(one: Factored) -> str | None:
    rank, size = one.a.shape[0], one.size / float(torch.linalg.vector_norm(one.weight))
    if size == 0.0 or 2 * rank > min(one.weight.shape):  # half of all directions are no subspace to speak of
        return None
    basis = thin_svd(one.weight)
    q_b, q_a = torch.linalg.qr(one.b)[0], torch.linalg.qr(one.a.T)[0]
    last_a, last_b = _share(q_a, basis.v[:, -rank:]), _share(q_b, basis.u[:, -rank:])
    if last_a > _ALIGNED and (last_b > _ALIGNED or size > _LARGE):
        return WORDS["milora"]
    first_a, first_b = _share(q_a, basis.v[:, :rank]), _share(q_b, basis.u[:, :rank])
    if min(first_a, first_b) > _ALIGNED and size > _LARGE:
        return WORDS["pissa"]
    return None


def _share(x: Matrix, y: Matrix) -> float:
    return float(torch.linalg.vector_norm(x.T @ y) ** 2 / x.shape[1])


def _distance(init: str, weight: Matrix, removed: Operator) -> float:
    """Return how far s·B₀A₀ is from a part of W that ``init`` takes out, in units of ‖W‖; 0 where none is known."""
    factors = removed.svd()
    kept = factors.s > 1e-6 * factors.s[0]
    u, v = factors.u[:, kept], factors.v[:, kept]
    left = torch.linalg.vector_norm(u.T @ (weight - removed.dense()))
    right = torch.linalg.vector_norm((weight - removed.dense()) @ v)
    norm = torch.linalg.vector_norm(weight)
    if init == "pissa":
        return float(max(left, right, _beyond(weight, removed, factors.s[kept])) / norm)
    if init.startswith("pissa_niter_"):  # a randomised range finder projects on one side only
        return float(min(left, right) / norm)
    if init == "olora":
        projected = u @ (u.T @ weight)
        scale = torch.sum(projected * removed.dense()) / torch.sum(projected**2)
        return float(torch.linalg.vector_norm(removed.dense() - scale * projected) / norm)
    return 0.0


def _beyond(weight: Matrix, removed: Operator, sigma: Float64[Tensor, " r"]) -> Tensor:
    """Return by how much the residual's largest singular value exceeds the smallest one that was taken out."""
    left: Tensor = torch.linalg.matrix_norm(weight - removed.dense(), ord=2)
    return (left - sigma[-1]).clamp(min=0)
