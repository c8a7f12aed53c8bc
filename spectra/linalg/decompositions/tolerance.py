"""The rank tolerance: when a singular value counts as zero."""

import torch


def rank_tolerance(rows: int, columns: int, largest: float, dtype: torch.dtype = torch.float64) -> float:
    """Return the value below which a singular value of a ``rows`` × ``columns`` matrix is rounding.

    max(m, n)·eps·σ₁: a backward stable SVD perturbs every singular value by at most a modest multiple of eps·σ₁, and
    max(m, n) is the customary allowance for that multiple (LAPACK, NumPy and torch ``matrix_rank`` use the same).
    """
    return max(rows, columns) * torch.finfo(dtype).eps * largest
