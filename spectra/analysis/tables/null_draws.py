"""The rows of table ``nulls``: metrics of ΔW against those of random updates of the same size.

Each metric is compared with the families that destroy what it measures: the shape of the spectrum with families that
do not keep it; positions of entries with all families that move them; motion of the base's spectrum and leading
subspaces with random orientations. A null in closed form needs no samples: its ``draws`` is 0.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from spectra.analysis.tables.columns import Row
from spectra.analysis.tables.coordinates import MASKS, BaseCoordinates
from spectra.linalg.decompositions import spectrum
from spectra.linalg.decompositions.angles import orthonormal_angles
from spectra.linalg.decompositions.basis import Basis
from spectra.linalg.measures.motion import ANGLE_DIMENSIONS, INTRUDER_CANDIDATES, INTRUDER_COSINE
from spectra.linalg.nulls.counts import CountNull
from spectra.linalg.nulls.monte_carlo import compare_with_draws, compare_with_normal
from spectra.linalg.nulls.random_updates import FAMILIES, Original, gaussian_sigma
from spectra.linalg.operators.basic import Operator

Metrics = dict[str, float]

# Operations, about as many as one core does in three seconds, that the draws of one matrix may cost in all.
BUDGET = 3e10

# Each statistic of each family gets the draws that its part of the budget pays, within these bounds. A matrix for
# which the part pays fewer than two is too large: what would need them is left out.
FEWEST, MOST = 8, 199

_SHAPE: Mapping[str, Callable[[Tensor], float]] = {
    "stable_rank": spectrum.stable_rank,
    "effective_rank": spectrum.effective_rank,
    "effective_rank_energy": spectrum.effective_rank_energy,
    "participation_ratio": spectrum.participation_ratio,
    "top1_energy": spectrum.top1_energy,
}
_COUNTS = ("intruders",)
_ANGLES = tuple(f"angle_{what}_k{k}" for k in ANGLE_DIMENSIONS for what in ("max", "mean"))

# Gram matrices are faster than an SVD, and lose half of the digits: not on worse conditioned bases.
_GRAM_CONDITION = 1e5


@dataclass(frozen=True)
class _Sampled:
    """One matrix and its update, with the seed of its samples."""

    weight: Tensor
    basis: Basis
    original: Original
    coordinates: BaseCoordinates
    seed: int

    @cached_property
    def wide(self) -> Tensor:
        """W or its transpose, the small side first."""
        return self.weight if self.basis.small_is_left else self.weight.T

    @cached_property
    def leading(self) -> tuple[Tensor, Tensor]:
        """Singular vectors of W whose spaces are followed, of the small and of the long side."""
        small = self.basis.vectors[:, : max(ANGLE_DIMENSIONS)]
        return small, _unit(self.wide.T @ small)

    def generator(self, statistic: int, family: str) -> torch.Generator:
        """Return a stream of its own for each statistic and family: one more does not change the others."""
        return torch.Generator().manual_seed(int(self._stream(statistic, family).generate_state(1, np.uint64)[0] >> 1))

    def rng(self, statistic: int, family: str) -> np.random.Generator:
        """Return the same for numpy."""
        return np.random.default_rng(self._stream(statistic, family))

    def _stream(self, statistic: int, family: str) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.seed, statistic, list(FAMILIES).index(family)])


def null_rows(
    weight: Float64[Tensor, "o i"],
    basis: Basis,
    update: Operator,
    coordinates: BaseCoordinates,
    *,
    seed: int,
    budget: float = BUDGET,
) -> list[Row]:
    """Return the rows of one matrix at one snapshot, without ``step`` and ``module``; none for ΔW = 0.

    Parameters
    ----------
    weight, basis
        The base weight W, O × I, and its singular basis.
    update
        ΔW, finite.
    coordinates
        The entries of W.
    seed
        Seed of all draws.
    budget
        Operations that draws may cost, see :data:`BUDGET`.
    """
    case = _Sampled(weight, basis, Original(update, update.svdvals()), coordinates, seed)
    if not case.original.norm > 0:
        return []
    return [*_shape_rows(case, budget), *_coordinate_rows(case, budget), *_motion_rows(case, budget)]


def _draws(part: float, cost: float) -> int:
    """Return how many draws of a cost a part of the budget pays, 0 where it pays fewer than two."""
    paid = part / cost
    return 0 if paid < 2 else min(MOST, max(FEWEST, int(paid)))


def _shape_rows(case: _Sampled, budget: float) -> list[Row]:
    (rows, columns), original = case.original.shape, case.original
    q = min(rows, columns)
    value = _shape(original.sigma)
    rng = case.rng(0, "gaussian")
    flips, factors = case.generator(0, "sign_flipped"), case.generator(0, "low_rank")
    streams: dict[str, tuple[float, float, Callable[[], Tensor]]] = {
        "gaussian": (0.05, 130.0 * q**2, lambda: torch.from_numpy(gaussian_sigma(rows, columns, rng))),
        "low_rank": (
            0.05,
            5e5 + 3 * (rows + columns) * original.rank**2,
            lambda: FAMILIES["low_rank"](original, factors).svdvals(),
        ),
        "sign_flipped": (
            0.15,
            float(rows * columns * q),
            lambda: _dense_sigma(FAMILIES["sign_flipped"](original, flips).dense()),
        ),
    }
    return [
        row
        for family, (part, cost, sigma) in streams.items()
        for row in _compared(family, value, (_shape(sigma()) for _ in range(_draws(part * budget, cost))))
    ]


def _coordinate_rows(case: _Sampled, budget: float) -> list[Row]:
    coordinates, original = case.coordinates, case.original
    value = coordinates.metrics(original.dense)
    out: list[Row] = []
    for family in ("gaussian", "low_rank", "spectrum_matched", "permuted"):
        generator = case.generator(1, family)
        draws = _draws(0.45 * budget / 4, 500.0 * original.dense.numel() + _factor_cost(family, original))
        sampled = (coordinates.metrics(FAMILIES[family](original, generator).dense()) for _ in range(draws))
        out += _compared(family, value, sampled)
    return [
        *out,
        *_closed("sign_flipped", value, coordinates.sign_flipped_null(original.update)),
        *_closed("adam_like", value, coordinates.constant_null(original.norm)),
    ]


def _motion_rows(case: _Sampled, budget: float) -> list[Row]:
    original = case.original
    rows, columns = original.shape
    cost = 500.0 * rows * columns + 1.5 * rows * columns * min(rows, columns) + _angle_cost(rows, columns)
    draws = _draws(0.25 * budget / 2, cost)
    if not draws:
        return []
    value = _motion(case, original.dense)
    out: list[Row] = []
    for family in ("gaussian", "spectrum_matched"):
        generator = case.generator(2, family)
        sampled = (_motion(case, FAMILIES[family](original, generator).dense()) for _ in range(draws))
        out += _compared(family, value, sampled)
    return out


def _angle_cost(rows: int, columns: int) -> float:
    """Return the operations of the angles of one draw: products with K columns, and K × K eigenvalues, for each k."""
    return min(max(ANGLE_DIMENSIONS), rows, columns) ** 2 * (600.0 + 2 * (rows + columns))


def _factor_cost(family: str, original: Original) -> float:
    factored = family in ("low_rank", "spectrum_matched")
    return 2.0 * sum(original.shape) * original.rank**2 + original.dense.numel() * original.rank if factored else 0.0


def _shape(sigma: Tensor) -> Metrics:
    return {name: metric(sigma) for name, metric in _SHAPE.items()}


def _dense_sigma(matrix: Tensor) -> Tensor:
    """Return singular values, descending, good to 1e-8·σ₁: shapes of a spectrum are not moved by less."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values: Tensor = torch.linalg.eigvalsh(wide @ wide.T).clamp(min=0).sqrt().flip(0)
    return values


def _motion(case: _Sampled, delta: Tensor) -> Metrics:
    """Return what W + ΔW shows; definitions are those of :class:`spectra.linalg.measures.motion.Motion`."""
    moved = case.wide + (delta if case.basis.small_is_left else delta.T)
    sigma, small = _small_side(moved, case.basis.sigma)
    long = _unit(moved.T @ small)
    shift = float(torch.linalg.vector_norm(sigma - case.basis.sigma))
    rho = shift / case.original.norm
    left = (small if case.basis.small_is_left else long)[:, :INTRUDER_CANDIDATES]
    cosines = case.basis.left(case.weight, left).abs().amax(0)
    return {
        "nss": shift / float(torch.linalg.vector_norm(case.basis.sigma)),
        "rho_sigma": rho,
        "kappa_spec": rho**2 * max(case.basis.shape),
        "intruders": float((cosines < INTRUDER_COSINE).sum()),
        **_angles(case, small, long),
    }


def _small_side(moved: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Return the singular values of W + ΔW, wide, and its first left singular vectors."""
    if float(sigma[-1]) * _GRAM_CONDITION > float(sigma[0]):
        values, vectors = torch.linalg.eigh(moved @ moved.T)
        values, vectors = values.clamp(min=0).sqrt().flip(0), vectors.flip(1)
    else:
        r = torch.linalg.qr(moved.T, mode="r")[1]
        _, values, vh = torch.linalg.svd(r)
        vectors = vh.T
    return values, vectors[:, : min(max(ANGLE_DIMENSIONS), spectrum.numerical_rank(values, *moved.shape))]


def _angles(case: _Sampled, small: Tensor, long: Tensor) -> Metrics:
    """Return the angles between leading spaces; NaN for what spans both sides, or exceeds the rank of W or of W'."""
    rank = min(small.shape[1], spectrum.numerical_rank(case.basis.sigma, *case.basis.shape))
    out = dict.fromkeys(_ANGLES, math.nan)
    for k in ANGLE_DIMENSIONS:
        if k <= rank and k < max(case.basis.shape):
            sides = zip(case.leading, (small, long), strict=True)
            found = torch.cat([orthonormal_angles(old[:, :k], new[:, :k]) for old, new in sides])
            out |= {f"angle_max_k{k}": float(found.max()), f"angle_mean_k{k}": float(found.mean())}
    return out


def _unit(columns: Tensor) -> Tensor:
    unit: Tensor = columns / torch.linalg.vector_norm(columns, dim=0)
    return unit


def _compared(family: str, value: Metrics, draws: Iterable[Metrics]) -> list[Row]:
    drawn = list(draws)
    if not drawn:
        return []
    samples: dict[str, NDArray[np.float64]] = {name: np.array([draw[name] for draw in drawn]) for name in value}
    return [
        _row(
            name,
            family,
            asdict(compare_with_draws(seen, samples[name], discrete=name in _COUNTS, log_normal=name in _ANGLES)),
        )
        for name, seen in value.items()
        if not math.isnan(seen)
    ]


def _closed(family: str, value: Metrics, null: CountNull) -> list[Row]:
    """Return the rows of visible counts under a null in closed form; none of counts too small to be near normal."""
    seen, moved = value["unchanged_bf16"], float(null.mean.sum())
    nulls = {"unchanged_bf16": (null.unchanged(), null.unchanged_z(seen), float(null.sizes.sum()))}
    for mask, groups in MASKS.items():
        members = torch.tensor(groups, dtype=torch.float64, device=null.mean.device)
        overlap = f"overlap_{mask}"
        nulls[overlap] = (null.overlap(members), null.overlap_z(members, value[overlap]), moved)
    return [
        _row(name, family, asdict(compare_with_normal(value[name], found.mean, found.sd, step=1 / count)))
        for name, (found, z, count) in nulls.items()
        if not math.isnan(z)
    ]


def _row(metric: str, family: str, beside: dict[str, Any]) -> Row:
    return {"metric": metric, "null": family, **beside}
