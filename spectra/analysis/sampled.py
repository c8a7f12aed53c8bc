"""The rows of table ``nulls``: metrics against updates that chance could have put in this one's place.

A metric is compared with the families that destroy what it measures: the shape of the spectrum with families that do
not keep it; where entries lie with all that move them; how the base's spectrum moves with random orientations. Where a
null has a closed form nothing is drawn, and ``draws`` is 0.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from spectra.analysis.coordinates import MASKS, BaseCoordinates
from spectra.analysis.measure import Row
from spectra.linalg import spectrum
from spectra.linalg.counts import CountNull
from spectra.linalg.decompose import Basis
from spectra.linalg.empirical import compare, normal_comparison
from spectra.linalg.motion import INTRUDER_CANDIDATES, INTRUDER_COSINE
from spectra.linalg.operators import Operator
from spectra.linalg.sampling import FAMILIES, Original, gaussian_sigma

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

# Gram matrices are faster than an SVD, and lose half of the digits: not on worse conditioned bases.
_GRAM_CONDITION = 1e5


@dataclass(frozen=True)
class _Case:
    """One matrix and its update, and the seed of what is drawn for it."""

    weight: Tensor
    basis: Basis
    original: Original
    coordinates: BaseCoordinates
    seed: int

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
    case = _Case(weight, basis, Original(update, update.svdvals()), coordinates, seed)
    if not case.original.norm > 0:
        return []
    return [*_shape_rows(case, budget), *_coordinate_rows(case, budget), *_motion_rows(case, budget)]


def _draws(part: float, cost: float) -> int:
    """Return how many draws of a cost a part of the budget pays, 0 where it pays fewer than two."""
    paid = part / cost
    return 0 if paid < 2 else min(MOST, max(FEWEST, int(paid)))


def _shape_rows(case: _Case, budget: float) -> list[Row]:
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


def _coordinate_rows(case: _Case, budget: float) -> list[Row]:
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


def _motion_rows(case: _Case, budget: float) -> list[Row]:
    original = case.original
    rows, columns = original.shape
    cost = 500.0 * rows * columns + 1.5 * rows * columns * min(rows, columns)
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


def _motion(case: _Case, delta: Tensor) -> Metrics:
    """Return what W + ΔW shows; definitions are those of :class:`spectra.linalg.motion.Motion`."""
    sigma, left = _moved(case, delta)
    shift = float(torch.linalg.vector_norm(sigma - case.basis.sigma))
    rho = shift / case.original.norm
    cosines = case.basis.left(case.weight, left).abs().amax(0)
    return {
        "nss": shift / float(torch.linalg.vector_norm(case.basis.sigma)),
        "rho_sigma": rho,
        "kappa_spec": rho**2 * max(case.basis.shape),
        "intruders": float((cosines < INTRUDER_COSINE).sum()),
    }


def _moved(case: _Case, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the singular values of W + ΔW and its first left singular vectors."""
    moved, sigma = case.weight + delta, case.basis.sigma
    wide = moved if case.basis.small_is_left else moved.T
    if float(sigma[-1]) * _GRAM_CONDITION > float(sigma[0]):
        values, vectors = torch.linalg.eigh(wide @ wide.T)
        values, vectors = values.clamp(min=0).sqrt().flip(0), vectors.flip(1)
    else:
        r = torch.linalg.qr(wide.T, mode="r")[1]
        _, values, vh = torch.linalg.svd(r)
        vectors = vh.T
    top = vectors[:, : min(INTRUDER_CANDIDATES, spectrum.numerical_rank(values, *moved.shape))]
    if case.basis.small_is_left:
        return values, top
    images = moved @ top
    return values, images / torch.linalg.vector_norm(images, dim=0)


def _compared(family: str, value: Metrics, draws: Iterable[Metrics]) -> list[Row]:
    drawn = list(draws)
    if not drawn:
        return []
    samples: dict[str, NDArray[np.float64]] = {name: np.array([draw[name] for draw in drawn]) for name in value}
    return [
        _row(name, family, asdict(compare(value[name], samples[name], discrete=name in _COUNTS)))
        for name in value
        if not math.isnan(value[name])
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
        _row(name, family, asdict(normal_comparison(value[name], found.mean, found.sd, step=1 / count)))
        for name, (found, z, count) in nulls.items()
        if not math.isnan(z)
    ]


def _row(metric: str, family: str, beside: dict[str, Any]) -> Row:
    return {"metric": metric, "null": family, **beside}
