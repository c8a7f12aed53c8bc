"""Base matrices with a known singular value decomposition."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spectra.analysis.synthetic.setting import Setting


@dataclass(frozen=True)
class Matrix:
    """W = U·diag(sigma)·Vᵀ, as stored: float64 values that the stored dtype represents exactly.

    Attributes
    ----------
    weight
        O × I.
    left, sigma, right
        O × Q, Q, I × Q.
    """

    weight: Tensor
    left: Tensor
    sigma: Tensor
    right: Tensor


def build_base(setting: Setting, generator: torch.Generator) -> dict[str, Matrix]:
    """Return the matrices by module: in each layer a square, a wide, a tall and a wide one."""
    width = setting.width
    shapes = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (width // 2, width),
        "mlp.up_proj": (2 * width, width),
        "mlp.down_proj": (width, 2 * width),
    }
    return {
        f"model.layers.{layer}.{name}": _matrix(shape, setting, generator)
        for layer in range(setting.layers)
        for name, shape in shapes.items()
    }


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return ``columns`` orthonormal columns in a uniformly random orientation."""
    gaussian = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    oriented: Tensor = q * r.diagonal().sign()
    return oriented


def _matrix(shape: tuple[int, int], setting: Setting, generator: torch.Generator) -> Matrix:
    rows, columns = shape
    count = min(shape)
    index = torch.arange(1, count + 1, dtype=torch.float64)
    sigma = {
        "flat": 1.2 - 0.4 * index / count,
        "power": index**-setting.exponent,
        "steep": torch.exp(-setting.exponent * (index - 1) / count),
    }[setting.spectrum]
    planned = (orthonormal(rows, count, generator) * sigma) @ orthonormal(columns, count, generator).T
    weight = planned.to(getattr(torch, setting.dtype)).double()
    left, found, right = torch.linalg.svd(weight, full_matrices=False)
    return Matrix(weight, left, found, right.T)
