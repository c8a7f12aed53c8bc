"""Updates of known alignment, size and rank, as factors (B, A) with B·A = ΔW, at any snapshot."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spectra.analysis.synthetic.bases import Matrix, orthonormal
from spectra.analysis.synthetic.setting import Setting
from spectra.analysis.synthetic.truths import Truth

Factors = tuple[Tensor, Tensor]
Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]

# The first or last tenth of the base directions.
_BLOCK = 0.1


@dataclass(frozen=True)
class SyntheticUpdate:
    """The update of a run.

    Attributes
    ----------
    factors
        Function from a snapshot step to (B, A) of every module.
    size
        Function from a step to the size relative to the base: ‖ΔW‖₂/‖W‖₂ for ``diverging``, else ‖ΔW‖/‖W‖.
    onset
        Step at which the fault began, None if it is not in the weights, or present from the first step.
    """

    factors: Callable[[int], Mapping[str, Factors]]
    size: Callable[[float], float]
    onset: int | None = None


def build_update(
    truth: Truth, setting: Setting, base: Mapping[str, Matrix], rng: np.random.Generator, generator: torch.Generator
) -> SyntheticUpdate:
    """Return the update for a fault, or for a kind of healthy run."""
    if truth == "rank_collapsing":
        return _collapsing(setting, base, rng, generator)
    if truth == "diverging":
        return _diverging(setting, base, rng, generator)
    if truth == "intruder":
        return _intruding(setting, base, rng, generator)
    sizes = _growth(setting)
    noise = _part_elsewhere(truth, setting, rng)
    moved = 0.0 if truth == "not_learning" and rng.random() < 0.2 else 1.0
    parts = {}
    for name, matrix in base.items():
        fixed = _unit(_fixed(truth, setting, matrix, generator))
        walk = _walk(setting, matrix, generator)
        parts[name] = (fixed, walk, float(torch.linalg.vector_norm(matrix.sigma)))

    def factors(step: int) -> dict[str, Factors]:
        return {
            name: _add(
                _times(fixed, moved * sizes(step) * norm * math.sqrt(1 - noise)),
                _times(walk(step), moved * sizes(step) * norm * math.sqrt(noise)),
            )
            for name, (fixed, walk, norm) in parts.items()
        }

    return SyntheticUpdate(factors, sizes)


def _part_elsewhere(truth: Truth, setting: Setting, rng: np.random.Generator) -> float:
    """Return the fraction of energy in a random walk instead of the chosen directions."""
    if truth.startswith("null"):
        return 1.0
    if setting.quirk in ("rank_one", "early"):
        return 0.0
    if truth in ("principal", "minor", "principal_locked"):
        return float(rng.uniform(0.4, 0.6) if setting.near else rng.uniform(0.05, 0.35))
    return float(rng.uniform(0.1, 0.5))


def _fixed(truth: Truth, setting: Setting, matrix: Matrix, generator: torch.Generator) -> Factors:
    count = len(matrix.sigma)
    block = max(1, round(_BLOCK * count))
    if truth in ("principal", "principal_locked"):
        return _inside(matrix, slice(0, block), generator)
    if truth == "minor":
        return _inside(matrix, slice(count - block, count), generator)
    left = torch.randn(len(matrix.left), setting.rank, generator=generator, dtype=torch.float64)
    right = torch.randn(setting.rank, len(matrix.right), generator=generator, dtype=torch.float64)
    if truth == "healthy":  # as trained runs of ours: more in the first directions than chance puts there
        left = matrix.left @ (matrix.sigma.sqrt()[:, None] * (matrix.left.T @ left))
    return left, right


def _inside(matrix: Matrix, chosen: slice, generator: torch.Generator) -> Factors:
    left, right = matrix.left[:, chosen], matrix.right[:, chosen]
    core = torch.randn(left.shape[1], right.shape[1], generator=generator, dtype=torch.float64)
    return left @ core, right.T


def _walk(setting: Setting, matrix: Matrix, generator: torch.Generator) -> Callable[[int], Factors]:
    """Return a random walk of unit norm: of full rank in full checkpoints, in one random row space in adapters."""
    rows, columns = matrix.weight.shape
    if setting.stored == "full":
        right = torch.eye(columns, dtype=torch.float64)
    else:
        right = torch.randn(setting.rank, columns, generator=generator, dtype=torch.float64)
    at, left, before = {}, torch.zeros(rows, len(right), dtype=torch.float64), 0
    for step in setting.snapshots:
        move = torch.randn(rows, len(right), generator=generator, dtype=torch.float64)
        left, before = left + math.sqrt(step - before) * move, step
        at[step] = _unit((left, right))
    return at.__getitem__


def _growth(setting: Setting) -> Callable[[float], float]:
    return lambda step: float(setting.size * (step / setting.steps) ** setting.growth)


def _collapsing(
    setting: Setting, base: Mapping[str, Matrix], rng: np.random.Generator, generator: torch.Generator
) -> SyntheticUpdate:
    """Return an update of equal singular values, of which one takes over."""
    middle = rng.uniform(0.5, 0.8) * setting.steps
    width = rng.uniform(0.01, 0.06) * setting.steps
    end = rng.uniform(0.85, 0.93) if setting.near else rng.uniform(0.96, 0.995)
    sizes, rank = _growth(setting), setting.rank

    def shares(step: float) -> Numbers:
        first = 1 / rank + (end - 1 / rank) / (1 + math.exp(-(step - middle) / width))
        return np.array([first, *[(1 - first) / (rank - 1)] * (rank - 1)])

    parts = {
        name: (
            orthonormal(len(matrix.left), rank, generator),
            orthonormal(len(matrix.right), rank, generator).T,
            float(torch.linalg.vector_norm(matrix.sigma)),
        )
        for name, matrix in base.items()
    }

    def factors(step: int) -> dict[str, Factors]:
        roots = torch.from_numpy(np.sqrt(shares(float(step))))
        return {name: (sizes(step) * norm * left * roots, right) for name, (left, right, norm) in parts.items()}

    ranks = {
        step: float(np.exp(-(p * np.log(p)).sum()))
        for step in range(1, setting.steps + 1)
        for p in [shares(float(step))]
    }
    onset = next((step for step, rank in ranks.items() if rank - 1 <= (ranks[1] - 1) / 2), None)
    return SyntheticUpdate(factors, sizes, onset)


def _diverging(
    setting: Setting, base: Mapping[str, Matrix], rng: np.random.Generator, generator: torch.Generator
) -> SyntheticUpdate:
    """Return an update that grows normally at first, then exponentially past the norm of the base."""
    onset = int(rng.uniform(0.3, 0.7) * setting.steps)
    start, end = rng.uniform(0.005, 0.1), rng.uniform(0.8, 1.5) if setting.near else rng.uniform(1.5, 6)
    rate = math.log(end / start) / (setting.steps - onset)

    def size(step: float) -> float:
        return float(
            start * (step / onset) ** setting.growth if step <= onset else start * math.exp(rate * (step - onset))
        )

    parts = {
        name: (_fixed("diverging", setting, matrix, generator), float(matrix.sigma[0])) for name, matrix in base.items()
    }

    def factors(step: int) -> dict[str, Factors]:
        return {name: _times(pair, size(float(step)) * norm / _spectral(pair)) for name, (pair, norm) in parts.items()}

    return SyntheticUpdate(factors, size, onset)


def _intruding(
    setting: Setting, base: Mapping[str, Matrix], rng: np.random.Generator, generator: torch.Generator
) -> SyntheticUpdate:
    """Return one large direction that is far from every direction of the base, and a small isotropic rest."""
    height = rng.uniform(0.2, 0.5) if setting.near else rng.uniform(0.7, 0.95)
    parts = {}
    for name, matrix in base.items():
        # With the first directions of a spectrum that falls it would mix: W is large on them.
        chosen = slice(0 if setting.spectrum == "flat" else len(matrix.sigma) // 2, None)
        left, right = _even(matrix.left[:, chosen], generator), _even(matrix.right[:, chosen], generator)
        rest = _unit(_fixed("isotropic", setting, matrix, generator))
        parts[name] = ((left[:, None], right[None, :]), rest, float(matrix.sigma[0]))

    def factors(step: int) -> dict[str, Factors]:
        share = (step / setting.steps) ** setting.growth
        return {
            name: _add(_times(one, height * share * norm), _times(rest, 0.1 * height * share * norm))
            for name, (one, rest, norm) in parts.items()
        }

    return SyntheticUpdate(factors, lambda step: float(height * (step / setting.steps) ** setting.growth))


def _even(basis: Tensor, generator: torch.Generator) -> Tensor:
    """Return a unit vector with the same |cosine| to each column of an orthonormal basis."""
    signs = torch.randint(0, 2, (basis.shape[1],), generator=generator, dtype=torch.float64) * 2 - 1
    return basis @ signs / math.sqrt(basis.shape[1])


def _unit(pair: Factors) -> Factors:
    return _times(pair, 1 / float(torch.linalg.matrix_norm(pair[0] @ pair[1])))


def _spectral(pair: Factors) -> float:
    return float(torch.linalg.matrix_norm(pair[0] @ pair[1], ord=2))


def _times(pair: Factors, factor: float) -> Factors:
    return pair[0] * factor, pair[1]


def _add(first: Factors, second: Factors) -> Factors:
    return torch.cat([first[0], second[0]], dim=1), torch.cat([first[1], second[1]])
