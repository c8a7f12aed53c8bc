"""How W changes under an update: its singular values, its leading subspaces, its direction.

Everything is float64 and backward stable: W + ΔW is read in blocks along its long side, by QR, and never as a Gram
matrix. The error floor of every number is the rounding of W itself: about eps·σ₁ for a singular value, and eps·σ₁/gap
radians for a direction whose singular values are ``gap`` away from the rest. Where ``gap`` is 0 a direction is not
defined, and its angle is arbitrary.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from spectra.linalg.decompositions.angles import principal_angles, vector_angles
from spectra.linalg.decompositions.basis import Basis
from spectra.linalg.decompositions.spectrum import numerical_rank
from spectra.linalg.decompositions.tolerance import rank_tolerance
from spectra.linalg.operators.basic import Operator

ANGLE_DIMENSIONS = (1, 4, 16, 64)
ROTATION_FRACTION = 0.1

# peft's defaults in ``peft.tuners.lora.intruders``, those of arXiv 2410.21228.
INTRUDER_CANDIDATES = 10
INTRUDER_COSINE = 0.5

# Rows per block of the long side. With 2q rows stacked under the last R, a third of the work is repeated; there should
# be few blocks, since each adds its rounding.
_BLOCK_RATIO, _LEAST_BLOCK = 2, 512

# The rounding of a spectrum is under this many units of eps·√q·σ₁: see ``Motion.nss_error``.
_ROUNDING_UNITS = 8.0


@dataclass(frozen=True)
class Motion:
    """How W moved to W' = W + ΔW. Angles are in degrees.

    Attributes
    ----------
    sigma
        Singular values of W', descending, Q.
    nss
        Normalized spectral shift ‖σ(W') − σ(W)‖/‖σ(W)‖, 0 or more (arXiv 2511.08567). An isotropic update of relative
        norm ε gives about ε/√max(O, I).
    nss_error
        Bound on the rounding error of ``nss``: 8·eps·√q·(σ₁ + σ₁')/‖σ(W)‖. By Weyl, each computed singular value is
        wrong by no more than the 2-norm of the backward error, which LAPACK states as eps·σ₁ times a modest factor;
        q such errors have the norm √q·eps·σ₁. The 8 is that factor. Against spectra that are known exactly, of
        condition 1 to 1e8, it is under 2 up to 1024 × 1024 and 512 × 4096, and under 8 for 16 × 262144, the shape
        with the most blocks for its size. An ``nss`` below the bound cannot be told from 0.
    rho_sigma
        ‖σ(W') − σ(W)‖/‖ΔW‖_F, 0 to 1: the part of the update that moves the spectrum (arXiv 2607.19331).
        Small i.i.d. updates give 1/√max(O, I). NaN for ΔW = 0.
    kappa_spec
        ρ²·max(O, I), scaled so that small i.i.d. updates give 1. NaN for ΔW = 0.
    one_minus_cos
        1 − ⟨W, W'⟩/(‖W‖‖W'‖), 0 to 2; about ½(‖ΔW‖/‖W‖)² for small updates in any direction but W's own.
    angle_max, angle_mean
        By k, the largest and the mean of the 2k principal angles between the spans of the first k left, and of the
        first k right, singular vectors of W and of W'. NaN if k exceeds the rank of either. A small ΔW turns them by
        up to ‖ΔW‖₂/(σ_k − σ_{k+1}) radians (Wedin): where those two values nearly agree, a large angle means
        nothing. The k = q small-side vectors span the whole space: their angles are 0.
    rotation_head, rotation_tail
        Median of arccos |⟨u_i, u_i'⟩| over the first, and last, tenth of the indices, at least one; u_i are left
        vectors. Two close singular values that swap turn both vectors by 90°. Indices whose σ_i is zero within
        rounding have no direction and are left out; NaN if none has one.
    intruders
        How many of the first 10 left singular vectors of W' have |cos| < 0.5 with every left singular vector of W
        (arXiv 2410.21228, as peft counts). Random directions of a large space are all intruders.
    intruder_energy
        Their share Σσ'²/‖W'‖² of the energy, 0 to 1.
    """

    sigma: Float64[Tensor, " q"]
    nss: float
    nss_error: float
    rho_sigma: float
    kappa_spec: float
    one_minus_cos: float
    angle_max: dict[int, float]
    angle_mean: dict[int, float]
    rotation_head: float
    rotation_tail: float
    intruders: int
    intruder_energy: float


def motion(weight: Float64[Tensor, "o i"], basis: Basis, update: Operator) -> Motion:
    """Return how ``weight`` changes under ``update``.

    Costs a QR of the long side and an SVD of a Q × Q matrix with its vectors. Besides W, at most two matrices of its
    size are formed, and none if the long side is many times the small one.

    Parameters
    ----------
    weight
        The base weight W, O × I.
    basis
        Its singular basis.
    update
        ΔW, finite. If it is 0, everything is 0 except the ratios to ‖ΔW‖, which are NaN.
    """
    norms = _norms(_Wide.of(weight, update), update)
    if norms.update == 0:
        return _unmoved(basis)
    moved = _Moved.of(weight, basis, update)
    shift = float(torch.linalg.vector_norm(moved.sigma - basis.sigma))
    base, rho = float(torch.linalg.vector_norm(basis.sigma)), shift / norms.update
    rounding = math.sqrt(len(basis.sigma)) * torch.finfo(torch.float64).eps
    head, tail = _rotations(moved)
    angles = {k: _angles(moved, k) for k in ANGLE_DIMENSIONS}
    intruders = _intruders(moved)
    return Motion(
        sigma=moved.sigma,
        nss=_ratio(shift, base),
        nss_error=_ratio(_ROUNDING_UNITS * rounding * float(basis.sigma[0] + moved.sigma[0]), base),
        rho_sigma=rho,
        kappa_spec=rho**2 * max(basis.shape),
        one_minus_cos=_one_minus_cos(norms),
        angle_max={k: float(found.max()) for k, found in angles.items()},
        angle_mean={k: float(found.mean()) for k, found in angles.items()},
        rotation_head=head,
        rotation_tail=tail,
        intruders=len(intruders),
        intruder_energy=_ratio(float((moved.sigma[intruders] ** 2).sum()), float((moved.sigma**2).sum())),
    )


@dataclass(frozen=True)
class _Wide:
    """W and ΔW, both transposed if O > I, so that the rows are the small side."""

    weight: Tensor
    update: Operator

    @classmethod
    def of(cls, weight: Tensor, update: Operator) -> "_Wide":
        rows, columns = weight.shape
        return cls(weight, update) if rows <= columns else cls(weight.T, update.T)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of columns of W, each with the same columns of ΔW."""
        small, long = self.weight.shape
        step = max(_BLOCK_RATIO * small, _LEAST_BLOCK)
        for start in range(0, long, step):
            stop = min(start + step, long)
            yield self.weight[:, start:stop], self.update.columns(start, stop)


@dataclass(frozen=True)
class _Norms:
    """Norms and inner product of W and ΔW.

    ``across`` is the norm of the part of ΔW that is orthogonal to W, ``rounding`` the norm below which W + ΔW is zero.
    """

    weight: float
    update: float
    product: float
    across: float
    rounding: float


def _norms(wide: _Wide, update: Operator) -> _Norms:
    weight = float(torch.linalg.vector_norm(wide.weight))
    if update.rank_bound < min(update.shape) and update.frobenius() == 0:  # equal within rounding of its terms
        return _Norms(weight, 0.0, 0.0, 0.0, 0.0)
    product = sum(float((w * d).sum()) for w, d in wide.blocks())
    along = _ratio(product, weight**2) if weight > 0 else 0.0
    norms = [(torch.linalg.vector_norm(d), torch.linalg.vector_norm(d - along * w)) for w, d in wide.blocks()]
    moved, across = (math.hypot(*(float(norm) for norm in part)) for part in zip(*norms, strict=True))
    return _Norms(weight, moved, product, across, rank_tolerance(*update.shape, weight + moved))


def _one_minus_cos(norms: _Norms) -> float:
    """Return 1 − cos of the angle between W and W + ΔW without subtracting nearly equal numbers.

    sin = ‖ΔW⊥‖/‖W'‖ and cos = (‖W‖² + ⟨W, ΔW⟩)/(‖W‖‖W'‖), so that 1 − cos = sin²/(1 + cos).
    """
    if norms.weight == 0:
        return math.nan  # an angle needs two directions
    along = norms.weight + norms.product / norms.weight
    moved = math.hypot(along, norms.across)
    if moved <= norms.rounding:
        return math.nan
    sine, cosine = norms.across / moved, along / moved
    return sine**2 / (1 + cosine) if cosine > 0 else 1 - cosine


@dataclass(frozen=True)
class _Moved:
    """W' with its singular vectors and those of W; long-side vectors are computed on demand."""

    wide: _Wide
    weight: Tensor
    basis: Basis
    small: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, weight: Tensor, basis: Basis, update: Operator) -> "_Moved":
        wide = _Wide.of(weight, update)
        small, sigma = _small_side(wide)
        return cls(wide, weight, basis, small, sigma)

    @cached_property
    def rank(self) -> int:
        """The smaller numerical rank of W and W'."""
        return min(numerical_rank(sigma, *self.basis.shape) for sigma in (self.basis.sigma, self.sigma))

    def small_sides(self, chosen: slice) -> tuple[Tensor, Tensor]:
        """Return some small-side vectors of W and of W', orthonormal columns."""
        return self.basis.vectors[:, chosen], self.small[:, chosen]

    def long_sides(self, chosen: slice) -> tuple[Tensor, Tensor]:
        """Return some long-side vectors of W and of W', unit columns.

        Each is the image of a small-side vector; its error is that of the small side plus eps·σ₁/σ_i.
        """
        old, new = self.small_sides(chosen)
        matrix = self.wide.weight.T
        return _unit(matrix @ old), _unit(matrix @ new + self.wide.update.rmatmul(new))

    def left_sides(self, chosen: slice) -> tuple[Tensor, Tensor]:
        """Return some left singular vectors of W and of W'."""
        return self.small_sides(chosen) if self.basis.small_is_left else self.long_sides(chosen)


def _small_side(wide: _Wide) -> tuple[Tensor, Tensor]:
    """Return the small side's singular vectors of W + ΔW, Q × Q, and its singular values."""
    triangle = wide.weight.new_empty(0, wide.weight.shape[0])
    for w, d in wide.blocks():
        stacked = torch.cat([triangle, (w + d).T])
        square = stacked.shape[0] == stacked.shape[1]
        triangle = stacked if square else torch.linalg.qr(stacked, mode="r")[1]
    _, sigma, vh = torch.linalg.svd(triangle)
    return vh.T, sigma


def _angles(moved: _Moved, k: int) -> Tensor:
    """Return the 2k angles between both sides' leading subspaces, in degrees; one NaN if k exceeds the rank."""
    if k > moved.rank:
        return moved.sigma.new_full((1,), math.nan)
    spans_everything = [k == dimension for dimension in moved.wide.weight.shape]
    chosen = slice(0, k)
    sides = (moved.small_sides, moved.long_sides)
    return torch.cat(
        [
            moved.sigma.new_zeros(k) if full else principal_angles(*side(chosen))
            for side, full in zip(sides, spans_everything, strict=True)
        ]
    )


def _rotations(moved: _Moved) -> tuple[float, float]:
    """Return the median rotation of the left vectors of the first and of the last tenth of indices, in degrees."""
    q = len(moved.sigma)
    count = max(1, round(ROTATION_FRACTION * q))
    return _median_rotation(moved, slice(0, min(count, moved.rank))), _median_rotation(
        moved, slice(q - count, moved.rank)
    )


def _median_rotation(moved: _Moved, chosen: slice) -> float:
    if chosen.start >= chosen.stop:
        return math.nan
    return float(vector_angles(*moved.left_sides(chosen)).quantile(0.5))


def _intruders(moved: _Moved) -> list[int]:
    """Return the indices of the leading left vectors of W' that resemble no left vector of W."""
    top = min(INTRUDER_CANDIDATES, numerical_rank(moved.sigma, *moved.basis.shape))
    _, candidates = moved.left_sides(slice(0, top))
    cosines = moved.basis.left(moved.weight, candidates).abs().amax(0)
    return [index for index, cosine in enumerate(cosines.tolist()) if cosine < INTRUDER_COSINE]


def _unmoved(basis: Basis) -> Motion:
    defined = numerical_rank(basis.sigma, *basis.shape)
    zeros = {k: 0.0 if k <= defined else math.nan for k in ANGLE_DIMENSIONS}
    return Motion(basis.sigma, 0.0, 0.0, math.nan, math.nan, 0.0, zeros, dict(zeros), 0.0, 0.0, 0, 0.0)


def _unit(columns: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(columns, dim=0)
    return columns / norms.clamp(min=torch.finfo(columns.dtype).tiny)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
