"""Offsets in ΔW that belong to the base: an initialization block left in, subtracted, or drawn again."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from spectra.analysis.synthetic.bases import Matrix
from spectra.analysis.synthetic.setting import Setting
from spectra.analysis.synthetic.updates import Factors, SyntheticUpdate, build_update

Fault = Literal["minor_left_in", "principal_left_in", "principal_taken_out", "principal_drawn_again"]

# A smaller offset relative to ‖W‖ (a doubled block at the end of a steep spectrum) is harmless and not generated.
_LEAST = 0.03
_NEAR_LEAST = 0.015
_PART = {"minor_left_in": 0.15, "principal_left_in": 0.15, "principal_taken_out": 0.15, "principal_drawn_again": 0.1}


def build_offset(
    setting: Setting, base: Mapping[str, Matrix], rng: np.random.Generator, generator: torch.Generator
) -> SyntheticUpdate:
    """Return a healthy update plus an offset; its norm is at most a fifth of the offset's (near thresholds: equal)."""
    # A foreign adapter contains a block only if it was left in; merged weights can contain any.
    possible: list[Fault] = ["minor_left_in", "principal_left_in"]
    if setting.stored == "full":
        possible += ["principal_taken_out", "principal_drawn_again"]
    blocks = {fault: {name: _block(fault, matrix, generator) for name, matrix in base.items()} for fault in possible}
    sizes = {fault: _size(found, base) for fault, found in blocks.items()}
    least = _NEAR_LEAST if setting.near else _LEAST
    fault = rng.choice([fault for fault in possible if sizes[fault] >= least])
    part = rng.uniform(0.2, 1.0) if setting.near else rng.uniform(0.01, 0.2)
    sound = build_update("isotropic", setting, base, rng, generator)
    factor = part * sizes[fault] / setting.size

    def factors(step: int) -> dict[str, Factors]:
        return {name: _joined(blocks[fault][name], pair, factor) for name, pair in sound.factors(step).items()}

    return SyntheticUpdate(factors, sound.size)


def _joined(block: Factors, sound: Factors, factor: float) -> Factors:
    return torch.cat([block[0], factor * sound[0]], dim=1), torch.cat([block[1], sound[1]])


def _block(fault: Fault, matrix: Matrix, generator: torch.Generator) -> Factors:
    count = len(matrix.sigma)
    rank = max(1, round(_PART[fault] * count))
    if fault == "principal_drawn_again":
        return _drawn_again(matrix, rank, generator)
    chosen = slice(count - rank, count) if fault == "minor_left_in" else slice(0, rank)
    sign = -1 if fault == "principal_taken_out" else 1
    return sign * matrix.left[:, chosen] * matrix.sigma[chosen], matrix.right[:, chosen].T


def _drawn_again(matrix: Matrix, rank: int, generator: torch.Generator) -> Factors:
    """Return the difference of two randomized SVDs of four iterations without oversampling, as peft's PiSSA draws."""
    first, second = (_range(matrix, rank, generator) for _ in range(2))
    left = torch.cat([first, -second], dim=1)
    return left, torch.cat([first.T @ matrix.weight, second.T @ matrix.weight])


def _range(matrix: Matrix, rank: int, generator: torch.Generator, iterations: int = 4) -> torch.Tensor:
    weight = matrix.weight
    q = _orthonormal(weight @ torch.randn(weight.shape[1], rank, generator=generator, dtype=torch.float64))
    for _ in range(iterations):
        q = _orthonormal(weight @ _orthonormal(weight.T @ q))
    return q


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    q: torch.Tensor = torch.linalg.qr(columns)[0]
    return q


def _size(blocks: Mapping[str, Factors], base: Mapping[str, Matrix]) -> float:
    norms = [
        float(torch.linalg.matrix_norm(left @ right) / torch.linalg.vector_norm(base[name].sigma))
        for name, (left, right) in blocks.items()
    ]
    return float(np.median(norms))
