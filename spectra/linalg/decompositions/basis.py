"""Singular basis of a base matrix in float64, stored for its smaller side.

A base matrix is decomposed once; every snapshot, run and method on it uses the result. Only the q × q vectors of the
smaller side and σ are kept. The longer side's vectors are implied, v_j = Wᵀu_j/σ_j, and are applied without being
formed, so that a projection of R columns costs products with R columns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

# Rows per block of a streamed QR: at least this number, and at least as many as the small side, since each block is
# factored with the R of the previous blocks stacked on it.
_BLOCK = 512

# Below this multiple of σ₁ an implied vector loses more than eps·1e7 ≈ 2e-9 to division by σ_j, and is stored.
_IMPLIED_LIMIT = 1e-7


@dataclass(frozen=True)
class Factors:
    """A thin SVD: ``u @ diag(s) @ v.T``, s descending.

    Attributes
    ----------
    u
        Left singular vectors, O × R, orthonormal columns.
    s
        Singular values, R, descending.
    v
        Right singular vectors, I × R.
    """

    u: Float64[Tensor, "o r"]
    s: Float64[Tensor, " r"]
    v: Float64[Tensor, "i r"]


def thin_svd(matrix: Float64[Tensor, "o i"]) -> Factors:
    """Return the thin SVD of a dense matrix by QR of the long side and SVD of the square factor; backward stable.

    A Gram matrix would be 1.7 times faster, but it squares the condition number, which ruins the minor subspace.
    """
    rows, columns = matrix.shape
    if rows < columns:
        flipped = thin_svd(matrix.T)
        return Factors(flipped.v, flipped.s, flipped.u)
    if rows == columns:
        u, s, vh = torch.linalg.svd(matrix)
        return Factors(u, s, vh.T)
    q, r = torch.linalg.qr(matrix)
    u, s, vh = torch.linalg.svd(r)
    return Factors(q @ u, s, vh.T)


def small_side_svd(
    block: Callable[[int, int], Float64[Tensor, "k small"]], long: int
) -> tuple[Float64[Tensor, "small r"], Float64[Tensor, " r"]]:
    """Return the small side's singular vectors and σ of a matrix that is read in blocks along its long side.

    A streamed QR (each block stacked under the R of the previous ones, as in TSQR), then the SVD of the last R. It is
    backward stable and forms nothing of the full matrix's size.

    Parameters
    ----------
    block
        Function of start and stop along the long side that returns that block, with the small side as its columns.
    long
        Length of the long side.
    """
    r = block(0, min(_BLOCK, long))
    length = max(_BLOCK, r.shape[1])
    for start in range(_BLOCK, long, length):
        r = torch.linalg.qr(torch.cat([r, block(start, min(start + length, long))]), mode="r")[1]
    _, s, vh = torch.linalg.svd(r, full_matrices=False)
    return vh.T, s


@dataclass(frozen=True)
class Basis:
    """Singular basis of a base matrix, stored for its smaller side.

    Attributes
    ----------
    vectors
        Q × Q: left singular vectors if O ≤ I, right ones otherwise.
    sigma
        Q singular values, descending.
    tail
        Long-side singular vectors, long × (number of columns), of the last columns, whose σ is too small for them to
        be implied. Usually empty.
    shape
        (O, I) of the base matrix.
    """

    vectors: Float64[Tensor, "q q"]
    sigma: Float64[Tensor, " q"]
    tail: Float64[Tensor, "long t"]
    shape: tuple[int, int]

    @property
    def small_is_left(self) -> bool:
        """Whether ``vectors`` are left singular vectors."""
        return self.shape[0] <= self.shape[1]

    def left(self, matrix: Float64[Tensor, "o i"], x: Float64[Tensor, "o k"]) -> Float64[Tensor, "q k"]:
        """Return UᵀX; ``matrix`` is the base matrix of this basis."""
        return self.vectors.T @ x if self.small_is_left else self._implied(matrix.T, x)

    def right(self, matrix: Float64[Tensor, "o i"], x: Float64[Tensor, "i k"]) -> Float64[Tensor, "q k"]:
        """Return VᵀX; ``matrix`` is the base matrix of this basis."""
        return self._implied(matrix, x) if self.small_is_left else self.vectors.T @ x

    def _implied(self, small_by_long: Tensor, x: Tensor) -> Tensor:
        kept = len(self.sigma) - self.tail.shape[1]
        implied = (self.vectors[:, :kept].T @ (small_by_long @ x)) / self.sigma[:kept, None]
        return torch.cat([implied, self.tail.T @ x])


def decompose(matrix: Float64[Tensor, "o i"]) -> Basis:
    """Return the singular basis of a base matrix, O × I, in float64."""
    rows, columns = matrix.shape
    tall = matrix if rows > columns else matrix.T
    small, sigma = small_side_svd(lambda start, stop: tall[start:stop], len(tall))
    if float(sigma[-1]) > _IMPLIED_LIMIT * float(sigma[0]):
        return Basis(small.contiguous(), sigma, tall.new_empty(len(tall), 0), (rows, columns))
    # Both sides from one SVD: vectors of tiny σ are not determined by the other side.
    factors = thin_svd(tall)
    kept = int((factors.s > _IMPLIED_LIMIT * factors.s[0]).sum())
    return Basis(factors.v.contiguous(), factors.s, factors.u[:, kept:].contiguous(), (rows, columns))
