"""ΔW of the LyCORIS family: entrywise and Kronecker products of small factors, times s = α/r.

- LoHa: (A₁B₁) ∘ (A₂B₂), A O × r, B r × I: rank up to r². With ``use_effective_conv2d`` each product is a Tucker core
  contracted with both. Hyeon-Woo et al. 2021 (FedPara), arXiv 2108.06098.
- LoKr: w₁ ⊗ w₂, each a full matrix or a product of rank r. Yeh et al. 2023 (LyCORIS), arXiv 2309.14859.
"""

import torch
from torch import Tensor

from spectra.linalg.operators.basic import Dense, LowRank, Operator
from spectra.linalg.operators.kronecker_and_circulant import Kronecker, hadamard, product
from spectra.weights.readers.adapter import Adapter, Reader, per_module
from spectra.weights.readers.oriented import oriented
from spectra.weights.readers.rank_patterns import rank_and_alpha


@oriented
def _loha(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    scale = _scale(adapter, module)
    if "hada_t1" in adapter.parts[module]:
        cores = [_tucker(adapter, module, f"hada_t{n}", f"hada_w{n}", weight) for n in "12"]
        return Dense(cores[0] * cores[1] * scale)
    return hadamard(_low_rank(adapter, module, "hada_w1", weight), _low_rank(adapter, module, "hada_w2", weight), scale)


@oriented
def _lokr(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    parts, scale = adapter.parts[module], _scale(adapter, module)
    left = _factor(adapter, module, "lokr_w1", weight, scale)
    if "lokr_w2" in parts and adapter.tensor(module, "lokr_w2").ndim == 3:
        # peft puts the 1-D kernel next to the columns of w₁, and reshapes the product to the weight's shape.
        full = torch.kron(left.dense(), adapter.tensor(module, "lokr_w2").to(weight))
        return Dense(full.reshape(weight.shape))
    if "lokr_t2" in parts:
        return Kronecker(left, Dense(_tucker(adapter, module, "lokr_t2", "lokr_w2", weight)))
    return Kronecker(left, _factor(adapter, module, "lokr_w2", weight))


def _factor(adapter: Adapter, module: str, name: str, weight: Tensor, scale: float = 1.0) -> Operator:
    if name in adapter.parts[module]:
        return Dense(adapter.tensor(module, name).to(weight).flatten(1) * scale)
    factors = _low_rank(adapter, module, name, weight)
    return product(factors.b, factors.a, scale)


def _low_rank(adapter: Adapter, module: str, name: str, weight: Tensor) -> LowRank:
    return LowRank(adapter.tensor(module, f"{name}_a").to(weight), adapter.tensor(module, f"{name}_b").to(weight))


def _tucker(adapter: Adapter, module: str, core: str, factor: str, weight: Tensor) -> Tensor:
    """Return the matrix O × Ik… of a core (r × r × k…) contracted with an output and an input factor."""
    a, b = adapter.tensor(module, f"{factor}_a").to(weight), adapter.tensor(module, f"{factor}_b").to(weight)
    return torch.einsum("ij...,io,jn->on...", adapter.tensor(module, core).to(weight), a, b).flatten(1)


def _scale(adapter: Adapter, module: str) -> float:
    rank, alpha = rank_and_alpha(adapter.config, module, "alpha")
    return alpha / rank


READERS = {
    "LOHA": Reader(
        parts=("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
        changes=per_module(_loha),
    ),
    "LOKR": Reader(
        parts=("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        changes=per_module(_lokr),
    ),
}
