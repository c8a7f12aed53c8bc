"""Shape of a spectrum: how many directions an update uses, and how evenly.

Every function takes the singular values of ΔW, descending, and returns NaN for ΔW = 0, where the shape is
undefined. p_r = σ_r²/Σσ² are energy shares. Definitions follow Roy and Vetterli (2007) for effective rank and
Rudelson and Vershynin (2007) for stable rank.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from spectra.linalg.decompositions.tolerance import rank_tolerance

Sigma = Float64[Tensor, " r"]


def energy_shares(sigma: Sigma) -> Sigma:
    """Return p_r = σ_r²/Σσ². NaN where all σ are zero."""
    # Scaling by σ₁ first keeps squares of tiny updates out of the subnormal range.
    squares = (sigma / sigma[0]) ** 2 if len(sigma) else sigma
    return squares / squares.sum()


def stable_rank(sigma: Sigma) -> float:
    """Return ‖ΔW‖²_F/σ₁², between 1 and rank."""
    return float(((sigma / sigma[0]) ** 2).sum()) if len(sigma) else math.nan


def effective_rank(sigma: Sigma) -> float:
    """Return exp H(σ/Σσ), between 1 and rank (Roy and Vetterli 2007)."""
    return _exp_entropy(sigma / sigma.sum())


def effective_rank_energy(sigma: Sigma) -> float:
    """Return exp H(p), the effective rank of the energies: between 1 and rank, at most ``effective_rank``."""
    return _exp_entropy(energy_shares(sigma))


def participation_ratio(sigma: Sigma) -> float:
    """Return 1/Σp² = (Σσ²)²/Σσ⁴, between 1 and rank."""
    return 1 / float((energy_shares(sigma) ** 2).sum()) if len(sigma) else math.nan


def nuclear_ratio(sigma: Sigma) -> float:
    """Return ‖ΔW‖_*²/‖ΔW‖_F², between 1 and rank."""
    scaled = sigma / sigma[0] if len(sigma) else sigma
    return float(scaled.sum() ** 2 / (scaled**2).sum())


def top1_energy(sigma: Sigma) -> float:
    """Return p₁, the share of energy in the first direction, between 1/rank and 1."""
    return float(energy_shares(sigma)[0]) if len(sigma) else math.nan


def numerical_rank(sigma: Sigma, rows: int, columns: int) -> int:
    """Return the number of singular values above the rank tolerance; 0 for ΔW = 0."""
    if not len(sigma):
        return 0
    return int((sigma > rank_tolerance(rows, columns, float(sigma[0]))).sum())


def _exp_entropy(shares: Tensor) -> float:
    return float(torch.exp(torch.special.entr(shares).sum())) if len(shares) else math.nan
