"""Null updates: random matrices of the same shape and norm as an update.

Each family keeps some properties of the update and randomizes the rest; a difference from a family comes from the
properties that the family destroys. All draws come from a ``torch.Generator`` that the caller seeds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.linalg import eigvalsh_tridiagonal
from torch import Tensor

from spectra.linalg.decompositions.spectrum import numerical_rank
from spectra.linalg.operators.basic import Dense, LowRank, Operator


@dataclass(frozen=True)
class Original:
    """The update that null updates are drawn for.

    Attributes
    ----------
    update
        ΔW.
    sigma
        Its singular values, descending.
    """

    update: Operator
    sigma: Float64[Tensor, " r"]

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self.update.shape

    @cached_property
    def norm(self) -> float:
        """‖ΔW‖_F."""
        return float(torch.linalg.vector_norm(self.sigma))

    @cached_property
    def rank(self) -> int:
        """Numerical rank."""
        return numerical_rank(self.sigma, *self.shape)

    @cached_property
    def dense(self) -> Float64[Tensor, "o i"]:
        """The O × I matrix."""
        return self.update.dense()


Sampler = Callable[[Original, torch.Generator], Operator]


def gaussian(original: Original, generator: torch.Generator) -> Operator:
    """Return independent Gaussian entries.

    Keeps shape and norm. Destroys the spectrum, the rank, the orientation, and which entries are large.
    """
    matrix = _normal(original.shape, generator, original.sigma.device)
    return Dense(matrix * (original.norm / float(torch.linalg.vector_norm(matrix))))


def low_rank(original: Original, generator: torch.Generator) -> Operator:
    """Return B A with Gaussian factors of the update's numerical rank, as of an adapter with random factors.

    Keeps shape, norm and rank. Destroys the spectrum within the rank, the orientation, and which entries are large.
    """
    rows, columns = original.shape
    device = original.sigma.device
    product = LowRank(
        _normal((rows, original.rank), generator, device), _normal((original.rank, columns), generator, device)
    )
    squared = ((product.b.T @ product.b) * (product.a @ product.a.T)).sum()
    return LowRank(product.b, product.a, original.norm / float(squared) ** 0.5)


def spectrum_matched(original: Original, generator: torch.Generator) -> Operator:
    """Return U diag(σ) Vᵀ with the update's σ and Haar U and V, factored.

    Keeps shape and all singular values. Destroys the orientation, and which entries are large.
    """
    sigma = original.sigma[: original.rank]
    u, v = (haar(size, original.rank, generator, sigma.device) for size in original.shape)
    return LowRank(u * sigma, v.T)


def sign_flipped(original: Original, generator: torch.Generator) -> Operator:
    """Return the update's entries, each with a random sign.

    Keeps shape, norm, |ΔW_ij| and with it the norm of every row and column. Destroys the signs, and with them the
    spectrum and the orientation.
    """
    return Dense(original.dense * _signs(original.shape, generator, original.sigma.device))


def permuted(original: Original, generator: torch.Generator) -> Operator:
    """Return the update's entries at random positions.

    Keeps shape, norm and the values of the entries. Destroys their positions: rows, columns, spectrum, orientation.
    """
    order = torch.randperm(original.dense.numel(), generator=generator)
    return Dense(original.dense.flatten()[order.to(original.sigma.device)].reshape(original.shape))


def adam_like(original: Original, generator: torch.Generator) -> Operator:
    """Return ±c with random signs, as the first step of Adam on a gradient of noise.

    Keeps shape and norm. Destroys everything else: all entries have the same magnitude.
    """
    rows, columns = original.shape
    signs = _signs(original.shape, generator, original.sigma.device)
    return Dense(signs * (original.norm / (rows * columns) ** 0.5))


FAMILIES: Mapping[str, Sampler] = {
    "gaussian": gaussian,
    "low_rank": low_rank,
    "spectrum_matched": spectrum_matched,
    "sign_flipped": sign_flipped,
    "permuted": permuted,
    "adam_like": adam_like,
}


def haar(
    size: int, columns: int, generator: torch.Generator, device: torch.device | None = None
) -> Float64[Tensor, "n r"]:
    """Return the first columns of a Haar-distributed orthogonal matrix.

    The signs of R's diagonal make the factorization unique; without them Q is not Haar (Mezzadri 2007).
    """
    q, r = torch.linalg.qr(_normal((size, columns), generator, device))
    columns_signed: Tensor = q * torch.sign(torch.diagonal(r))
    return columns_signed


def gaussian_sigma(rows: int, columns: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the singular values of a Gaussian matrix, descending, in O(q²) operations and without the matrix.

    Its bidiagonal form has independent χ entries (Silverstein 1985; Dumitriu and Edelman 2002).
    """
    q, long = min(rows, columns), max(rows, columns)
    diagonal, below = rng.chisquare(long - np.arange(q)), rng.chisquare(np.arange(q - 1, 0, -1))
    squares = diagonal + np.concatenate([[0.0], below])
    values = eigvalsh_tridiagonal(squares, np.sqrt(diagonal[:-1] * below), lapack_driver="sterf")
    return np.asarray(np.sqrt(np.maximum(values[::-1], 0)), dtype=np.float64)


# Drawn on the CPU, whose generators give the same numbers on every machine.
def _normal(shape: tuple[int, int], generator: torch.Generator, device: torch.device | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)


def _signs(shape: tuple[int, int], generator: torch.Generator, device: torch.device | None) -> Tensor:
    bits = torch.randint(0, 2, shape, generator=generator, dtype=torch.int8)
    signs: Tensor = bits.to(device, torch.float64).mul_(2).sub_(1)
    return signs
