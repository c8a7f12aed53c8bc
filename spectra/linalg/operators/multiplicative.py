"""Structured maps that multiply the base weight: block rotations, plane rotations, products.

They act on features, F × F; a product with the base weight costs what the structure costs, not F² per column.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from spectra.linalg.operators.basic import LowRank, Operator


def zero_update(like: Float[Tensor, "o i"]) -> LowRank:
    """Return ΔW = 0 with the shape and device of a matrix, as rank 1: tables need at least one singular value."""
    return LowRank(like.new_zeros(like.shape[0], 1), like.new_zeros(1, like.shape[1]))


class BlockDiagonal(Operator):
    """Square blocks of equal size along the diagonal, as OFT uses to rotate features.

    Parameters
    ----------
    blocks
        N × B × B; the map is N·B × N·B.
    """

    def __init__(self, blocks: Float[Tensor, "n b b"]) -> None:
        self.blocks = blocks.to(torch.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """(N·B, N·B)."""
        size = self.blocks.shape[0] * self.blocks.shape[1]
        return size, size

    @property
    def rank_bound(self) -> int:
        """N·B."""
        return self.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the blocks."""
        return self.blocks.device

    def matmul(self, x: Float64[Tensor, "i k"]) -> Float64[Tensor, "i k"]:
        """Return each block times its own rows of X."""
        return (self.blocks @ self._split(x)).reshape(x.shape)

    def rmatmul(self, y: Float64[Tensor, "o k"]) -> Float64[Tensor, "o k"]:
        """Return each transposed block times its own rows of Y."""
        return (self.blocks.mT @ self._split(y)).reshape(y.shape)

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*self.blocks.shape[:2], x.shape[1])


class PlaneMix(Operator):
    """diag(p) + diag(q)·J, where J rotates each pair of features by 90°: the map that RoAd applies to outputs.

    Feature i of the first half of each group of G is paired with feature i + G/2: J maps (x₁, x₂) to (−x₂, x₁).

    Parameters
    ----------
    kept
        p, F numbers: weight of the feature itself.
    turned
        q, F numbers: weight of its partner.
    group
        G, even, a divisor of F.
    """

    def __init__(self, kept: Float[Tensor, " f"], turned: Float[Tensor, " f"], group: int) -> None:
        self.kept = kept.to(torch.float64)
        self.turned = turned.to(torch.float64)
        self.group = group

    @property
    def shape(self) -> tuple[int, int]:
        """(F, F)."""
        return len(self.kept), len(self.kept)

    @property
    def rank_bound(self) -> int:
        """F."""
        return len(self.kept)

    @property
    def device(self) -> torch.device:
        """Device of the factors."""
        return self.kept.device

    def matmul(self, x: Float64[Tensor, "i k"]) -> Float64[Tensor, "i k"]:
        """Return p∘X + q∘JX."""
        return self.kept[:, None] * x + self.turned[:, None] * self._quarter_turn(x)

    def rmatmul(self, y: Float64[Tensor, "o k"]) -> Float64[Tensor, "o k"]:
        """Return p∘Y − J(q∘Y), since Jᵀ = −J."""
        return self.kept[:, None] * y - self._quarter_turn(self.turned[:, None] * y)

    def _quarter_turn(self, x: Tensor) -> Tensor:
        first, second = x.reshape(-1, 2, self.group // 2, x.shape[1]).unbind(1)
        return torch.stack([-second, first], 1).reshape(x.shape)


class Product(Operator):
    """left · right, multiplied out only on demand, such as (R − I)W of a method that rotates the base weight.

    Parameters
    ----------
    left, right
        Operators with as many columns of ``left`` as rows of ``right``. ``dense()`` applies ``left`` to the dense
        ``right``, so the structured operator goes left; use the transpose for the other order.
    """

    def __init__(self, left: Operator, right: Operator) -> None:
        if left.shape[1] != right.shape[0]:
            raise ValueError(f"cannot multiply operators of shapes {left.shape} and {right.shape}")
        self.left = left
        self.right = right

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank_bound(self) -> int:
        """The smaller of both bounds."""
        return min(self.left.rank_bound, self.right.rank_bound)

    @property
    def device(self) -> torch.device:
        """Device of the factors."""
        return self.left.device

    def matmul(self, x: Float64[Tensor, "i k"]) -> Float64[Tensor, "o k"]:
        """Return left (right X)."""
        return self.left.matmul(self.right.matmul(x))

    def rmatmul(self, y: Float64[Tensor, "o k"]) -> Float64[Tensor, "i k"]:
        """Return rightᵀ (leftᵀ Y)."""
        return self.right.rmatmul(self.left.rmatmul(y))

    def dense(self) -> Float64[Tensor, "o i"]:
        """Return left applied to the dense right."""
        return self.left.matmul(self.right.dense())
