"""Gini coefficient: how unevenly an update's energy is spread over rows and over columns."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor


def gini(values: Float64[Tensor, " n"]) -> float:
    """Return the Gini coefficient Σ|x_i − x_j|/(2n²·mean): 0 if all are equal, (n − 1)/n if one holds all.

    NaN where all values are zero. Values must not be negative.
    """
    count, ordered = len(values), values.sort().values
    largest = ordered[-1] if count else ordered.sum()
    if not float(largest) > 0:
        return math.nan
    shares = ordered / largest
    ranks = torch.arange(1 - count, count, 2, dtype=torch.float64, device=values.device)
    return float((ranks * shares).sum() / (count * shares.sum()))


def expected_gini(count: int, degrees: int) -> float:
    """Return the expected Gini coefficient of ``count`` squared norms of vectors of ``degrees`` Gaussian entries.

    (n − 1)/n · Γ(k + ½)/(√π·Γ(k + 1)), k = degrees/2: squared norms have a Gamma distribution of shape k, whose
    Gini coefficient is known (McDonald and Jensen 1979). Their shares of the sum are independent of the sum, which
    makes the finite-sample factor exact, for noise of fixed norm too.
    """
    shape = degrees / 2
    population = math.exp(math.lgamma(shape + 0.5) - math.lgamma(shape + 1)) / math.sqrt(math.pi)
    return (count - 1) / count * population


class SquaredNorms:
    """Squared norms of the rows and columns of a matrix that is read in blocks of rows.

    Parameters
    ----------
    shape
        (O, I).
    device
        Device of the blocks.
    """

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        self.rows = torch.zeros(shape[0], dtype=torch.float64, device=device)
        self.columns = torch.zeros(shape[1], dtype=torch.float64, device=device)

    def add(self, start: int, block: Float64[Tensor, "k i"]) -> None:
        """Add a block of rows, beginning at row ``start``."""
        squares = block**2
        self.rows[start : start + len(block)] = squares.sum(1)
        self.columns += squares.sum(0)

    @property
    def norm(self) -> float:
        """‖ΔW‖_F."""
        return math.sqrt(float(self.rows.sum()))
