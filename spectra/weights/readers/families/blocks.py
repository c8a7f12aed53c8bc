"""ΔW of methods that tile the matrix: MiSS, GraLoRA, C3A; AdaMSS is refused.

- MiSS (Kang et al. 2024, arXiv 2409.15371): with D the block (r × O), column c of ΔW is row c mod r of D, so that
  ΔW = Dᵀ·T with T[i, c] = 1 if c mod r = i. ``mini``: D has fewer columns and is repeated along the outputs.
  ``bat``: blocks b_i (O/r of r × r), and every r × r block of row i of ΔW is W_ij·b_i + b_i.
- GraLoRA (Jung et al. 2025, arXiv 2505.20355): a k × k grid, block (m, n) = s·B_mn·A_mn of rank r/k; plus a plain
  product of rank h (``hybrid_r``); s = α/(r + h). A is k × I/k × r, B is k × r × O/k.
- C3A (Chen et al. 2024, arXiv 2407.19342): a grid of circulant blocks, each given by its first row, over I.
- AdaMSS stores its blocks without row indices.
"""

from typing import NoReturn

import torch
from torch import Tensor

from spectra.errors import UnsupportedMethodError
from spectra.linalg.operators.basic import Dense, LowRank, Operator, Sum
from spectra.linalg.operators.kronecker_and_circulant import BlockCirculant, block_diagonal, product
from spectra.weights.facts import FACTS
from spectra.weights.readers.adapter import Adapter, Reader, per_module, require_shape
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.readers.oriented import oriented
from spectra.weights.storage.tensors import TensorStore


@oriented
def _miss(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    block = adapter.tensor(module, "miss_block").to(weight)
    if adapter.config.get("init_weights") == "bat":
        return _bat(adapter, module, block, weight)
    rank, width = block.shape
    inputs = _tile(rank, weight.shape[1], weight)
    if adapter.config.get("init_weights") != "mini":
        return LowRank(block.T, inputs)
    outputs = _tile(width, weight.shape[0], weight)
    return LowRank(outputs.T @ block.T, inputs) if rank <= width else LowRank(outputs.T, block.T @ inputs)


def _bat(adapter: Adapter, module: str, block: Tensor, weight: Tensor) -> Operator:
    count, size, _ = block.shape
    require_shape(adapter, module, weight, (count * size, weight.shape[1] // size * size))
    shifted = weight.view(count, size, -1, size).transpose(1, 2) + torch.eye(size).to(weight)
    return Dense((shifted @ block[:, None]).transpose(1, 2).reshape(weight.shape))


def _tile(size: int, length: int, like: Tensor) -> Tensor:
    """Return copies of the identity of ``size`` side by side, truncated to ``length`` columns."""
    return torch.eye(size).to(like).repeat(1, -(-length // size))[:, :length]


@oriented
def _gralora(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    a, b = adapter.tensor(module, "gralora_A").to(weight), adapter.tensor(module, "gralora_B").to(weight)
    grid, _, rank = a.shape
    # Row block m of ΔW is B_mᵀ·[A_m0 … A_mk]: together they are one product of k·r columns, B block-diagonal.
    left = block_diagonal(part.T for part in b)
    parts = a.reshape(grid, -1, grid, rank // grid)
    right = torch.cat([block_diagonal(part.T for part in parts[:, :, m]) for m in range(grid)])
    hybrid = int(adapter.config.get("hybrid_r") or 0)
    scale = float(adapter.config.get("alpha", 64)) / (rank + hybrid)
    blocks = product(left, right, scale)
    if not hybrid:
        return blocks
    general_b, general_a = (adapter.tensor(module, f"gralora_{side}_general").to(weight) for side in "BA")
    return Sum(blocks, LowRank(general_b, general_a, scale))


@oriented
def _c3a(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    return BlockCirculant(adapter.tensor(module, "c3a_kernel").to(weight) / weight.shape[1])


def _adamss(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> NoReturn:
    raise UnsupportedMethodError(
        str(FACTS["adamss"].not_read),
        where=adapter.path,
        hint="merge it with the peft that trained it, in float32, and analyze the full checkpoint with --base",
    )


READERS = {
    "MISS": Reader(parts=("miss_block",), changes=per_module(_miss)),
    "GRALORA": Reader(
        parts=("gralora_A", "gralora_B", "gralora_A_general", "gralora_B_general"),
        changes=per_module(_gralora),
    ),
    "C3A": Reader(parts=("c3a_kernel",), changes=per_module(_c3a)),
    "ADAMSS": Reader(parts=("adamss_A", "adamss_B", "adamss_newB"), changes=_adamss),
}
