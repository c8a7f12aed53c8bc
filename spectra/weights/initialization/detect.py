"""Detect SVD-based initialization (PiSSA, MiLoRA, OLoRA) from adapter tensors, ignoring the config.

These initializations subtract a part of W that is orthogonal to the remainder. The checks use that: they cost products
with r columns, and they detect the initialization of another base at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from spectra.linalg.decompositions.basis import thin_svd
from spectra.linalg.operators.basic import Operator

Matrix = Float64[Tensor, "o i"]

# Share of a factor's space in W's first or last r singular directions from which it counts as made of them. Chance
# gives r/n, and the row space of a trained plain LoRA stays near its random initialization.
_ALIGNED = 0.9
# ‖s·BA‖/‖W‖ far above that of any RLVR update.
_LARGE = 0.05
# Description of an adapter made of singular directions of the base, by method.
DESCRIPTIONS = {
    "milora": "A lies in the last singular directions of W, as in MiLoRA's initialization",
    "pissa": "A and B lie in the first singular directions of W, as in PiSSA's initialization",
}
# Largest distance of float32 and half-precision factors from the exact initialization, in units of ‖W‖.
_FLOAT32_TOLERANCE, _HALF_TOLERANCE = 1e-5, 1e-2
# Largest distance of an adapter that is declared to be the initialization: the base may have been loaded in half
# precision and stored in float32.
_NAMED_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Misfit:
    """Mismatch between an initial adapter and the base.

    Attributes
    ----------
    what
        Description.
    tolerable
        Whether rounding of the base explains it; then only a declared initialization is accepted.
    """

    what: str
    tolerable: bool


@dataclass(frozen=True)
class Factored:
    """Factors of one adapted matrix.

    Attributes
    ----------
    weight
        Base weight, O × I.
    b, a
        Factors, O × R and R × I.
    norm
        ‖s·BA‖_F.
    """

    weight: Tensor
    b: Tensor
    a: Tensor
    norm: float


def initial_misfit(init: str, pairs: Iterable[tuple[Matrix, Operator, bool]]) -> Misfit | None:
    """Return the mismatch between an initial adapter and the base, or None.

    Parameters
    ----------
    init
        The initialization, in lower case.
    pairs
        Base weight, s·B₀A₀, and whether the factors are in half precision.
    """
    worst: Misfit | None = None
    for weight, removed, half_precision in pairs:
        if not bool(weight.any()):  # a zero matrix has no directions
            continue
        distance = _distance(init, weight, removed)
        tolerance = _HALF_TOLERANCE if half_precision else _FLOAT32_TOLERANCE
        if distance > tolerance:
            misfit = Misfit(
                f"s·B₀A₀ is {distance:.2g}·‖W‖ away from what {init} takes out of this base",
                distance <= _NAMED_TOLERANCE,
            )
            worst = misfit if worst is None or worst.tolerable else worst
    return worst


def residual_misfit(differences: Iterable[tuple[Matrix, Matrix, int]]) -> Misfit | None:
    """Return the mismatch of a residual base, or None: W − W_res must have rank r up to the rounding of W_res.

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


def signature(matrices: Iterable[Factored]) -> str | None:
    """Return a description of an adapter made of singular directions of the base, as its initialization was, or None.

    Parameters
    ----------
    matrices
        Some of its matrices; all must agree, except those on a zero base matrix, which has no directions.
    """
    descriptions = {_signature(one) for one in matrices if bool(one.weight.any())}
    return descriptions.pop() if len(descriptions) == 1 else None


def _signature(one: Factored) -> str | None:
    rank, relative = one.a.shape[0], one.norm / float(torch.linalg.vector_norm(one.weight))
    if relative == 0.0 or 2 * rank > min(one.weight.shape):  # with half of all directions the overlap means nothing
        return None
    basis = thin_svd(one.weight)
    q_b, q_a = torch.linalg.qr(one.b)[0], torch.linalg.qr(one.a.T)[0]
    last_a, last_b = _share(q_a, basis.v[:, -rank:]), _share(q_b, basis.u[:, -rank:])
    if last_a > _ALIGNED and (last_b > _ALIGNED or relative > _LARGE):
        return DESCRIPTIONS["milora"]
    first_a, first_b = _share(q_a, basis.v[:, :rank]), _share(q_b, basis.u[:, :rank])
    if min(first_a, first_b) > _ALIGNED and relative > _LARGE:
        return DESCRIPTIONS["pissa"]
    return None


def _share(x: Matrix, y: Matrix) -> float:
    return float(torch.linalg.vector_norm(x.T @ y) ** 2 / x.shape[1])


def _distance(init: str, weight: Matrix, removed: Operator) -> float:
    """Return the distance of s·B₀A₀ from the part of W that ``init`` subtracts, in units of ‖W‖; 0 if unknown."""
    factors = removed.svd()
    kept = factors.s > 1e-6 * factors.s[0]
    u, v = factors.u[:, kept], factors.v[:, kept]
    left = torch.linalg.vector_norm(u.T @ (weight - removed.dense()))
    right = torch.linalg.vector_norm((weight - removed.dense()) @ v)
    norm = torch.linalg.vector_norm(weight)
    if init == "pissa":
        return float(max(left, right, _beyond(weight, removed, factors.s[kept])) / norm)
    if init.startswith("pissa_niter_"):  # a randomized range finder projects on one side only
        return float(min(left, right) / norm)
    if init == "olora":
        projected = u @ (u.T @ weight)
        scale = torch.sum(projected * removed.dense()) / torch.sum(projected**2)
        return float(torch.linalg.vector_norm(removed.dense() - scale * projected) / norm)
    return 0.0


def _beyond(weight: Matrix, removed: Operator, sigma: Float64[Tensor, " r"]) -> Tensor:
    """Return by how much the residual's largest singular value exceeds the smallest subtracted one."""
    left: Tensor = torch.linalg.matrix_norm(weight - removed.dense(), ord=2)
    return (left - sigma[-1]).clamp(min=0)
