"""Null distributions of counts of entries and of their ratios, for independent entries.

Ratios of counts use the delta method. For Gaussian noise whose norm is fixed to that of an update, the part of the
variance that comes from the norm is subtracted: Cov(count, ‖noise‖²)²/Var(‖noise‖²) = (Σ slope)²/(2n), where
slope = dp/d ln sd is an entry's Cov(visible, noise²)/sd².
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from spectra.linalg.nulls.haar_moments import Null, sqrt_variance

# A count with a smaller expectation than this is not near normal and has no z.
MIN_EXPECTED = 10.0


@dataclass(frozen=True)
class CountNull:
    """Null of the numbers of visible entries in disjoint groups, under noise with independent entries.

    Attributes
    ----------
    sizes
        Number of entries in each group.
    mean
        Expected number of visible entries in each group.
    covariance
        Covariance of these numbers.
    """

    sizes: Float64[Tensor, " g"]
    mean: Float64[Tensor, " g"]
    covariance: Float64[Tensor, "g g"]

    @classmethod
    def of(
        cls,
        sizes: Float64[Tensor, " g"],
        mean: Float64[Tensor, " g"],
        variance: Float64[Tensor, " g"],
        slope: Float64[Tensor, " g"] | None = None,
    ) -> "CountNull":
        """Return the null from sums over each group.

        Parameters
        ----------
        sizes, mean, variance
            Number of entries, Σp and Σp(1 − p).
        slope
            Σ dp/d ln sd, for Gaussian noise of fixed norm; None to subtract nothing.
        """
        covariance = torch.diag(variance)
        if slope is not None:
            covariance = covariance - torch.outer(slope, slope) / (2 * sizes.sum())
        return cls(sizes, mean, covariance)

    def unchanged(self) -> Null:
        """Return the null of the share of unchanged entries."""
        entries = float(self.sizes.sum())
        return Null(1 - float(self.mean.sum()) / entries, sqrt_variance(float(self.covariance.sum())) / entries)

    def overlap(self, members: Float64[Tensor, " g"]) -> Null:
        """Return the null of |M ∩ visible|/|visible|; NaN if no entry is expected to be visible.

        Parameters
        ----------
        members
            1 for the groups in the mask M, 0 for the others.
        """
        both = torch.stack([members, torch.ones_like(members)])
        return ratio_null(both @ self.mean, both @ self.covariance @ both.T)

    def unchanged_z(self, share: float) -> float:
        """Return z of a share of unchanged entries; NaN if under ``MIN_EXPECTED`` are expected to change or to stay."""
        visible = float(self.mean.sum())
        normal = MIN_EXPECTED <= visible <= float(self.sizes.sum()) - MIN_EXPECTED
        return self.unchanged().z(share) if normal else math.nan

    def overlap_z(self, members: Float64[Tensor, " g"], overlap: float) -> float:
        """Return z of an overlap; NaN if under ``MIN_EXPECTED`` visible ones are expected inside M, or outside."""
        inside = float(members @ self.mean)
        normal = MIN_EXPECTED <= min(inside, float(self.mean.sum()) - inside)
        return self.overlap(members).z(overlap) if normal else math.nan


class JaccardNull:
    """Null of the Jaccard index of two independent masks with independent entries, accumulated in blocks.

    Parameters
    ----------
    entries
        n.
    """

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self._mean = torch.zeros(2, dtype=torch.float64)
        self._covariance = torch.zeros(2, 2, dtype=torch.float64)
        self._slopes = torch.zeros(2, 2, dtype=torch.float64)

    def add(self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], counts: Tensor | float = 1.0) -> None:
        """Add a block of entries.

        Parameters
        ----------
        first, second
            Probability and slope of each entry, for the first and the second mask.
        counts
            Number of such entries.
        """
        (p, p_slope), (q, q_slope) = first, second
        parts = torch.stack([(p * q).flatten(), (p + q - p * q).flatten()])  # in both, in either
        weighted = parts * (counts.flatten() if isinstance(counts, Tensor) else counts)
        # An entry in both is in either, so E[both·either] = E[both].
        joint = weighted.sum(1)
        second_moment = torch.stack([torch.stack([joint[0], joint[0]]), torch.stack([joint[0], joint[1]])])
        self._mean += joint.cpu()
        self._covariance += (second_moment - weighted @ parts.T).cpu()
        self._slopes += torch.stack([_both_either(p_slope, q, counts), _both_either(q_slope, p, counts)]).cpu()

    def jaccard(self) -> Null:
        """Return the null of |A ∩ B|/|A ∪ B|; NaN if both are expected to be empty."""
        return ratio_null(self._mean, self._covariance - self._slopes.T @ self._slopes / (2 * self.entries))


def ratio_null(mean: Float64[Tensor, "2"], covariance: Float64[Tensor, "2 2"]) -> Null:
    """Return the null of X/Y from the means and the covariance of (X, Y); NaN if Y is expected to be zero.

    Mean R = X̄/Ȳ and variance Var(X − RY)/Ȳ². The mean's next term is O(1/Ȳ), small next to the standard deviation.
    """
    part, whole = mean.tolist()
    if whole <= 0:
        return Null(math.nan, math.nan)
    residual = torch.tensor([1.0, -part / whole], dtype=torch.float64, device=mean.device)
    return Null(part / whole, sqrt_variance(float(residual @ covariance @ residual)) / whole)


def _both_either(slope: Tensor, other: Tensor, counts: Tensor | float) -> Tensor:
    return torch.stack([(counts * slope * other).sum(), (counts * slope * (1 - other)).sum()])
