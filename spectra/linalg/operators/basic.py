"""Weight updates as linear operators that keep the structure of the method: dense, low-rank, sums.

All arithmetic is float64; factors of another dtype are converted once. Operators are immutable.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from spectra.linalg.decompositions.basis import Factors, thin_svd
from spectra.linalg.decompositions.tolerance import rank_tolerance


class Operator(ABC):
    """A linear map from I inputs to O outputs, defined by its products with vectors.

    Subclasses define ``shape``, ``matmul`` and ``rmatmul``; those with structure override ``svd``.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(O, I)."""

    @property
    @abstractmethod
    def rank_bound(self) -> int:
        """Largest rank that the structure allows."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the factors."""

    @abstractmethod
    def matmul(self, x: Float64[Tensor, "i k"]) -> Float64[Tensor, "o k"]:
        """Return ΔW X."""

    @abstractmethod
    def rmatmul(self, y: Float64[Tensor, "o k"]) -> Float64[Tensor, "i k"]:
        """Return ΔWᵀ Y."""

    def __matmul__(self, x: Float64[Tensor, "i k"]) -> Float64[Tensor, "o k"]:
        return self.matmul(x)

    @property
    def T(self) -> "Operator":
        """The transpose."""
        return Transposed(self)

    def dense(self) -> Float64[Tensor, "o i"]:
        """Return the O × I matrix."""
        return self.matmul(torch.eye(self.shape[1], dtype=torch.float64, device=self.device))

    def rows(self, start: int, stop: int) -> Float64[Tensor, "k i"]:
        """Return some rows as a matrix."""
        return self.rmatmul(self._unit_vectors(self.shape[0], start, stop)).T

    def columns(self, start: int, stop: int) -> Float64[Tensor, "o k"]:
        """Return some columns as a matrix."""
        return self.matmul(self._unit_vectors(self.shape[1], start, stop))

    def is_finite(self) -> bool:
        """Return whether ΔW has no NaN and no infinity; no dense matrix is formed."""
        # One NaN anywhere in a row makes that row's product with ones NaN.
        ones = torch.ones(self.shape[1], 1, dtype=torch.float64, device=self.device)
        return bool(torch.isfinite(self.matmul(ones)).all())

    def _unit_vectors(self, size: int, start: int, stop: int) -> Tensor:
        chosen = torch.zeros(size, stop - start, dtype=torch.float64, device=self.device)
        chosen[start:stop].fill_diagonal_(1)
        return chosen

    def svd(self) -> Factors:
        """Return a thin SVD with at most ``rank_bound`` (never more than min(O, I)) triplets."""
        return thin_svd(self.dense())

    def svdvals(self) -> Float64[Tensor, " r"]:
        """Return the singular values, descending."""
        return self.svd().s

    def frobenius(self) -> float:
        """Return ‖ΔW‖_F."""
        return float(torch.linalg.vector_norm(self.svdvals()))


class Dense(Operator):
    """A matrix without structure, such as the difference of two checkpoints.

    Parameters
    ----------
    matrix
        O × I.
    """

    def __init__(self, matrix: Float[Tensor, "o i"]) -> None:
        self.matrix = matrix.to(torch.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self.matrix.shape[0], self.matrix.shape[1]

    @property
    def rank_bound(self) -> int:
        """min(O, I)."""
        return min(self.shape)

    @property
    def device(self) -> torch.device:
        """Device of the factors."""
        return self.matrix.device

    def matmul(self, x: Float64[Tensor, "i k"]) -> Float64[Tensor, "o k"]:
        """Return ΔW X."""
        return self.matrix @ x

    def rmatmul(self, y: Float64[Tensor, "o k"]) -> Float64[Tensor, "i k"]:
        """Return ΔWᵀ Y."""
        return self.matrix.T @ y

    def dense(self) -> Float64[Tensor, "o i"]:
        """Return the matrix itself."""
        return self.matrix

    def rows(self, start: int, stop: int) -> Float64[Tensor, "k i"]:
        """Return some rows, without a copy."""
        return self.matrix[start:stop]

    def columns(self, start: int, stop: int) -> Float64[Tensor, "o k"]:
        """Return some columns, without a copy."""
        return self.matrix[:, start:stop]

    def frobenius(self) -> float:
        """Return ‖ΔW‖_F from the entries."""
        return float(torch.linalg.vector_norm(self.matrix))


class LowRank(Operator):
    """scale · B A, as LoRA stores it.

    Parameters
    ----------
    b
        O × R.
    a
        R × I.
    scale
        Factor in front, such as alpha/r.
    """

    def __init__(self, b: Float[Tensor, "o r"], a: Float[Tensor, "r i"], scale: float = 1.0) -> None:
        self.b = b.to(torch.float64) * scale
        self.a = a.to(torch.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def rank_bound(self) -> int:
        """R, or min(O, I) where that is smaller."""
        return min(self.a.shape[0], *self.shape)

    @property
    def device(self) -> torch.device:
        """Device of the factors."""
        return self.b.device

    def matmul(self, x: Float64[Tensor, "i k"]) -> Float64[Tensor, "o k"]:
        """Return B (A X)."""
        return self.b @ (self.a @ x)

    def rmatmul(self, y: Float64[Tensor, "o k"]) -> Float64[Tensor, "i k"]:
        """Return Aᵀ (Bᵀ Y)."""
        return self.a.T @ (self.b.T @ y)

    def dense(self) -> Float64[Tensor, "o i"]:
        """Return B A."""
        return self.b @ self.a

    def rows(self, start: int, stop: int) -> Float64[Tensor, "k i"]:
        """Return some rows of B A."""
        return self.b[start:stop] @ self.a

    def columns(self, start: int, stop: int) -> Float64[Tensor, "o k"]:
        """Return some columns of B A."""
        return self.b @ self.a[:, start:stop]

    def svd(self) -> Factors:
        """Return the SVD from thin QRs of B and Aᵀ and an R × R SVD: no O × I matrix is formed."""
        q_b, r_b = torch.linalg.qr(self.b)
        q_a, r_a = torch.linalg.qr(self.a.T)
        core = thin_svd(r_b @ r_a.T)
        return Factors(q_b @ core.u, core.s, q_a @ core.v)


class RowScaled(Operator):
    """diag(d) · inner: each output of ``inner`` is scaled by its own factor.

    Parameters
    ----------
    scales
        d, O factors.
    inner
        The operator that is scaled.
    """

    def __init__(self, scales: Float[Tensor, " o"], inner: Operator) -> None:
        self.scales = scales.to(torch.float64)
        self.inner = inner

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self.inner.shape

    @property
    def rank_bound(self) -> int:
        """Rank bound of the inner operator."""
        return self.inner.rank_bound

    @property
    def device(self) -> torch.device:
        """Device of the factors."""
        return self.scales.device

    def matmul(self, x: Float64[Tensor, "i k"]) -> Float64[Tensor, "o k"]:
        """Return diag(d) (inner X)."""
        return self.scales[:, None] * self.inner.matmul(x)

    def rmatmul(self, y: Float64[Tensor, "o k"]) -> Float64[Tensor, "i k"]:
        """Return innerᵀ (diag(d) Y)."""
        return self.inner.rmatmul(self.scales[:, None] * y)

    def dense(self) -> Float64[Tensor, "o i"]:
        """Return the scaled matrix."""
        return self.scales[:, None] * self.inner.dense()

    def rows(self, start: int, stop: int) -> Float64[Tensor, "k i"]:
        """Return some scaled rows."""
        return self.scales[start:stop, None] * self.inner.rows(start, stop)

    def columns(self, start: int, stop: int) -> Float64[Tensor, "o k"]:
        """Return some scaled columns."""
        return self.scales[:, None] * self.inner.columns(start, stop)


class Sum(Operator):
    """left + right.

    Parameters
    ----------
    left, right
        Operators of the same shape.
    """

    def __init__(self, left: Operator, right: Operator) -> None:
        if left.shape != right.shape:
            raise ValueError(f"cannot add operators of shapes {left.shape} and {right.shape}")
        self.left = left
        self.right = right

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self.left.shape

    @property
    def rank_bound(self) -> int:
        """The sum of both bounds, or min(O, I) where that is smaller."""
        return min(self.left.rank_bound + self.right.rank_bound, *self.shape)

    @property
    def device(self) -> torch.device:
        """Device of the factors."""
        return self.left.device

    def matmul(self, x: Float64[Tensor, "i k"]) -> Float64[Tensor, "o k"]:
        """Return left X + right X."""
        return self.left.matmul(x) + self.right.matmul(x)

    def rmatmul(self, y: Float64[Tensor, "o k"]) -> Float64[Tensor, "i k"]:
        """Return leftᵀ Y + rightᵀ Y."""
        return self.left.rmatmul(y) + self.right.rmatmul(y)

    def dense(self) -> Float64[Tensor, "o i"]:
        """Return the dense sum."""
        return self.left.dense() + self.right.dense()

    def rows(self, start: int, stop: int) -> Float64[Tensor, "k i"]:
        """Return some rows of the sum."""
        return self.left.rows(start, stop) + self.right.rows(start, stop)

    def columns(self, start: int, stop: int) -> Float64[Tensor, "o k"]:
        """Return some columns of the sum."""
        return self.left.columns(start, stop) + self.right.columns(start, stop)

    def svd(self) -> Factors:
        """Return the SVD; two low-rank terms stay factored: [B₁ B₂]·[A₁; A₂] has rank at most R₁ + R₂."""
        if isinstance(self.left, LowRank) and isinstance(self.right, LowRank):
            return LowRank(torch.cat([self.left.b, self.right.b], 1), torch.cat([self.left.a, self.right.a])).svd()
        return super().svd()


class Difference(Sum):
    """left − right, such as s(BA − B₀A₀) of a method that moves the base at initialization.

    Parameters
    ----------
    left, right
        Operators of the same shape.
    """

    def __init__(self, left: Operator, right: Operator) -> None:
        super().__init__(left, _negated(right))

    def svd(self) -> Factors:
        """Return the SVD; singular values within rounding of the two terms are set to zero.

        Equal terms must give ΔW = 0, not a matrix of rounding errors with a spectrum of its own.
        """
        factors = super().svd()
        floor = rank_tolerance(*self.shape, self.left.frobenius() + self.right.frobenius())
        return Factors(factors.u, torch.where(factors.s > floor, factors.s, 0.0), factors.v)


class Transposed(Operator):
    """The transpose of an operator.

    Parameters
    ----------
    inner
        The operator that is transposed.
    """

    def __init__(self, inner: Operator) -> None:
        self.inner = inner

    @property
    def shape(self) -> tuple[int, int]:
        """(I, O) of the inner operator."""
        return self.inner.shape[1], self.inner.shape[0]

    @property
    def rank_bound(self) -> int:
        """Rank bound of the inner operator."""
        return self.inner.rank_bound

    @property
    def device(self) -> torch.device:
        """Device of the factors."""
        return self.inner.device

    def matmul(self, x: Float64[Tensor, "o k"]) -> Float64[Tensor, "i k"]:
        """Return innerᵀ X."""
        return self.inner.rmatmul(x)

    def rmatmul(self, y: Float64[Tensor, "i k"]) -> Float64[Tensor, "o k"]:
        """Return inner Y."""
        return self.inner.matmul(y)

    def dense(self) -> Float64[Tensor, "i o"]:
        """Return the dense transpose."""
        return self.inner.dense().T

    def rows(self, start: int, stop: int) -> Float64[Tensor, "k o"]:
        """Return some columns of the inner operator, transposed."""
        return self.inner.columns(start, stop).T

    def columns(self, start: int, stop: int) -> Float64[Tensor, "i k"]:
        """Return some rows of the inner operator, transposed."""
        return self.inner.rows(start, stop).T

    def svd(self) -> Factors:
        """Return the inner SVD with its sides exchanged."""
        factors = self.inner.svd()
        return Factors(factors.v, factors.s, factors.u)

    @property
    def T(self) -> Operator:
        """The inner operator."""
        return self.inner


def _negated(operator: Operator) -> Operator:
    if isinstance(operator, LowRank):
        return LowRank(operator.b, operator.a, -1.0)
    return RowScaled(-torch.ones(operator.shape[0], dtype=torch.float64, device=operator.device), operator)
