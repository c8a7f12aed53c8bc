"""Kronecker products, block-circulant matrices, and operators embedded in a larger matrix.

Each operator keeps its factors if that is cheaper than the O × I matrix; :func:`product` and :func:`hadamard` choose
between factors and a dense matrix by the rank that the factors allow.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from spectra.linalg.decompositions.basis import Factors
from spectra.linalg.operators.basic import Dense, LowRank, Operator


def product(b: Float[Tensor, "o r"], a: Float[Tensor, "r i"], scale: float = 1.0) -> Operator:
    """Return scale · B A, factored if R is below both sides, otherwise dense, which is cheaper."""
    low_rank = LowRank(b, a, scale)
    return low_rank if a.shape[0] < min(low_rank.shape) else Dense(low_rank.dense())


def hadamard(first: LowRank, second: LowRank, scale: float = 1.0) -> Operator:
    """Return scale · (B₁A₁) ∘ (B₂A₂), whose rank is at most R₁R₂.

    Row o of the left factor is the Kronecker product of rows o of B₁ and B₂, and so for the columns of A₁ and A₂.
    """
    if first.rank_bound * second.rank_bound >= min(first.shape):
        return Dense(first.dense() * second.dense() * scale)
    b = (first.b[:, :, None] * second.b[:, None, :]).flatten(1)
    a = (first.a[:, None, :] * second.a[None, :, :]).flatten(0, 1)
    return LowRank(b, a, scale)


def block_diagonal(blocks: Iterable[Tensor]) -> Tensor:
    """Return the matrix with these blocks on its diagonal and zeros elsewhere."""
    matrix: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]  # torch does not type it
    return matrix


class Kronecker(Operator):
    """left ⊗ right: block (i, j) is left[i, j] · right.

    Parameters
    ----------
    left, right
        Operators of shapes (O₁, I₁) and (O₂, I₂); the product is O₁O₂ × I₁I₂.
    """

    def __init__(self, left: Operator, right: Operator) -> None:
        self.left = left
        self.right = right

    @property
    def shape(self) -> tuple[int, int]:
        """(O₁O₂, I₁I₂)."""
        return self.left.shape[0] * self.right.shape[0], self.left.shape[1] * self.right.shape[1]

    @property
    def rank_bound(self) -> int:
        """The product of both bounds."""
        return self.left.rank_bound * self.right.rank_bound

    @property
    def device(self) -> torch.device:
        """Device of the factors."""
        return self.left.device

    def matmul(self, x: Float64[Tensor, "i k"]) -> Float64[Tensor, "o k"]:
        """Return (left ⊗ right) X, one factor at a time."""
        return _both_sides(self.left, self.right, x)

    def rmatmul(self, y: Float64[Tensor, "o k"]) -> Float64[Tensor, "i k"]:
        """Return (leftᵀ ⊗ rightᵀ) Y, one factor at a time."""
        return _both_sides(self.left.T, self.right.T, y)

    def dense(self) -> Float64[Tensor, "o i"]:
        """Return the O × I matrix."""
        return _kron(self.left.dense(), self.right.dense())

    def svd(self) -> Factors:
        """Return the SVD: each pair of triplets of the two factors gives one of the product."""
        left, right = self.left.svd(), self.right.svd()
        return _sorted(_kron(left.u, right.u), torch.kron(left.s, right.s), _kron(left.v, right.v))


class BlockCirculant(Operator):
    """A grid of circulant blocks: element (t, s) of block (m, n) is kernel[m, n, (s − t) mod b].

    Parameters
    ----------
    kernel
        First rows of the blocks, M × N × b; the operator is Mb × Nb.
    """

    def __init__(self, kernel: Float[Tensor, "m n b"]) -> None:
        self.kernel = kernel.to(torch.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """(Mb, Nb)."""
        rows, columns, size = self.kernel.shape
        return rows * size, columns * size

    @property
    def rank_bound(self) -> int:
        """min(O, I)."""
        return min(self.shape)

    @property
    def device(self) -> torch.device:
        """Device of the kernel."""
        return self.kernel.device

    def matmul(self, x: Float64[Tensor, "i k"]) -> Float64[Tensor, "o k"]:
        """Return ΔW X by the discrete Fourier transform of each block of X."""
        return self._apply(torch.fft.fft(self.kernel).conj(), x)

    def rmatmul(self, y: Float64[Tensor, "o k"]) -> Float64[Tensor, "i k"]:
        """Return ΔWᵀ Y the same way: the transpose of a circulant block has the conjugate spectrum."""
        return self._apply(torch.fft.fft(self.kernel).transpose(0, 1), y)

    def _apply(self, spectrum: Tensor, x: Tensor) -> Tensor:
        blocks = torch.fft.fft(x.reshape(spectrum.shape[1], spectrum.shape[2], -1), dim=1)
        transformed = torch.fft.ifft(torch.einsum("mnb,nbk->mbk", spectrum, blocks), dim=1)
        out: Tensor = transformed.real.flatten(0, 1)
        return out

    def svd(self) -> Factors:
        """Return the SVD from one small SVD per frequency: b/2 of size M × N instead of one of Mb × Nb.

        Frequencies f and b − f are conjugate: u ⊗ e_f gives two real vectors, √2·Re and √2·Im, with one σ; frequencies
        0 and b/2 are already real.
        """
        spectrum = torch.fft.fft(self.kernel).conj()
        size = spectrum.shape[2]
        left, values, right = [], [], []
        for frequency in range(size // 2 + 1):
            block = spectrum[:, :, frequency]
            is_real = 2 * frequency % size == 0
            u, s, vh = torch.linalg.svd(block.real if is_real else block, full_matrices=False)
            wave = _wave(frequency, size, self.device)
            left.append(_real((u[:, None] * wave).flatten(0, 1), is_real))
            right.append(_real((vh.mH[:, None] * wave).flatten(0, 1), is_real))
            values.append(s if is_real else s.repeat(2))
        return _sorted(torch.cat(left, 1), torch.cat(values), torch.cat(right, 1))


class Placed(Operator):
    """An operator embedded in some rows and columns of a matrix that is zero elsewhere.

    Parameters
    ----------
    inner
        P × Q.
    shape
        (O, I) of the full matrix.
    rows
        P distinct row indices; None means all rows in order (P = O).
    columns
        Q distinct column indices; None means all columns in order (Q = I).
    """

    def __init__(
        self,
        inner: Operator,
        shape: tuple[int, int],
        rows: Int[Tensor, " p"] | None = None,
        columns: Int[Tensor, " q"] | None = None,
    ) -> None:
        self.inner = inner
        self._shape = shape
        self._rows = rows
        self._columns = columns

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self._shape

    @property
    def rank_bound(self) -> int:
        """Rank bound of the inner operator."""
        return self.inner.rank_bound

    @property
    def device(self) -> torch.device:
        """Device of the inner operator."""
        return self.inner.device

    def matmul(self, x: Float64[Tensor, "i k"]) -> Float64[Tensor, "o k"]:
        """Return ΔW X."""
        return _put(self.inner.matmul(_take(x, self._columns)), self._rows, self.shape[0])

    def rmatmul(self, y: Float64[Tensor, "o k"]) -> Float64[Tensor, "i k"]:
        """Return ΔWᵀ Y."""
        return _put(self.inner.rmatmul(_take(y, self._rows)), self._columns, self.shape[1])

    def svd(self) -> Factors:
        """Return the inner SVD, its vectors padded with zeros."""
        inner = self.inner.svd()
        return Factors(_put(inner.u, self._rows, self.shape[0]), inner.s, _put(inner.v, self._columns, self.shape[1]))


def _both_sides(left: Operator, right: Operator, x: Tensor) -> Tensor:
    outer, inner, count = left.shape[1], right.shape[1], x.shape[1]
    through_right = right.matmul(x.reshape(outer, inner, count).transpose(0, 1).reshape(inner, -1))
    by_left = through_right.reshape(-1, outer, count).transpose(0, 1).reshape(outer, -1)
    return left.matmul(by_left).reshape(-1, count)


def _kron(left: Tensor, right: Tensor) -> Tensor:
    return torch.kron(left.contiguous(), right.contiguous())  # torch.kron views its arguments


def _wave(frequency: int, size: int, device: torch.device) -> Tensor:
    """Return e_f, size × 1: exp(2πi·f·s/size)/√size. Full turns are removed in integers, which is exact."""
    turns = torch.arange(size, device=device) * frequency % size
    wave: Tensor = torch.exp(2j * torch.pi * turns.to(torch.float64) / size) / size**0.5
    return wave[:, None]


def _real(waves: Tensor, is_real: bool) -> Tensor:
    return waves.real if is_real else torch.cat([waves.real, waves.imag], dim=1) * 2**0.5


def _sorted(u: Tensor, s: Tensor, v: Tensor) -> Factors:
    order = torch.argsort(s, descending=True)
    return Factors(u[:, order], s[order], v[:, order])


def _take(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x[index]


def _put(x: Tensor, index: Tensor | None, size: int) -> Tensor:
    return x if index is None else x.new_zeros(size, x.shape[1]).index_copy(0, index, x)
