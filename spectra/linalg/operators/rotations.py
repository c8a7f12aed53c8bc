"""Rotations from skew-symmetric parameters, as the difference R − I.

R − I is computed without forming R: an update of 1e-6 keeps its digits, and Q = 0 gives exactly 0.
"""

import torch
from jaxtyping import Float64
from torch import Tensor


def skew_symmetric(upper: Float64[Tensor, "*n e"]) -> Float64[Tensor, "*n b b"]:
    """Return Q = −Qᵀ from its E = B(B − 1)/2 entries above the diagonal, row by row."""
    size = (1 + round((1 + 8 * upper.shape[-1]) ** 0.5)) // 2
    q = upper.new_zeros(*upper.shape[:-1], size, size)
    rows, columns = torch.triu_indices(size, size, 1, device=upper.device)
    q[..., rows, columns] = upper
    return q - q.mT


def cayley_minus_identity(q: Float64[Tensor, "*n b b"]) -> Float64[Tensor, "*n b b"]:
    """Return R − I = 2Q(I − Q)⁻¹ of the rotation R = (I + Q)(I − Q)⁻¹, for Q skew-symmetric."""
    identity = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    solution: Tensor = torch.linalg.solve(identity - q, 2 * q, left=False)
    return solution


def neumann_minus_identity(q: Float64[Tensor, "*n b b"], terms: int) -> Float64[Tensor, "*n b b"]:
    """Return R − I of the Neumann series that approximates the Cayley rotation, truncated as in peft.

    With T terms, 2Q + 2Q² + … + 2Q^(T−2) + Q^(T−1): the last power counts once. Three terms give what four give.
    """
    if terms < 3:
        return 2 * q if terms == 2 else torch.zeros_like(q)
    power, total = q, torch.zeros_like(q)
    for _ in range(max(terms, 4) - 2):
        total = total + 2 * power
        power = power @ q
    return total + power
