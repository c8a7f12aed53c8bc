"""ΔW of methods that scale the base weight W entry by entry.

- IA³: W∘l − W, l a column (one factor per output) or, in feed-forward modules, a row (one per input); the bias
  of an output is scaled with it. Liu et al. 2022, arXiv 2205.05638.
- HiRA: W∘(BA). Huang et al. 2025, openreview TwJrTz9cRS.
- GLoRA: W∘A + B, each of A and B a low-rank product, a column, one number or nothing; a bias b becomes
  b + b∘D + E + W·C. Chavan et al. 2023, arXiv 2306.07967.
- DeLoRA: B·diag(λ/(r‖a_i‖‖b_i‖))·A·diag(‖w_j‖), ‖w_j‖ the norm of column j of W. Bini et al. 2025, arXiv 2503.18225.
"""

from functools import partial

import torch
from torch import Tensor

from spectra.linalg.operators.basic import Dense, LowRank, Operator, RowScaled, Sum
from spectra.linalg.operators.multiplicative import zero_update
from spectra.weights.readers.adapter import (
    Adapter,
    Changes,
    Reader,
    per_module,
    refuse_options,
    require_shape,
    updates_by,
)
from spectra.weights.readers.families.vectors import biased, flat
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.storage.tensors import TensorStore

# Lower bound that peft puts on the norms in DeLoRA's denominator.
_SMALLEST_NORM = 1e-4
_GLORA_PARTS = tuple(f"glora_{path}.{factor}" for path in "ABCDE" for factor in ("Xd", "Xu", "X", "zeros"))


def _ia3_changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    by_output = (module for module in biased(adapter.parts, base) if adapter.tensor(module, "ia3_l").shape[1] == 1)
    return Changes(
        updates_by(_ia3, adapter), {f"{module}.bias": partial(_ia3_bias, adapter, module) for module in by_output}
    )


def _ia3(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    factors = adapter.tensor(module, "ia3_l").to(weight)
    rows, columns = factors.shape
    if columns == 1:
        require_shape(adapter, module, weight, (rows, None))
        return RowScaled(factors[:, 0] - 1, Dense(weight))
    require_shape(adapter, module, weight, (None, columns))
    return RowScaled(factors[0] - 1, Dense(weight.T)).T


def _ia3_bias(adapter: Adapter, module: str, bias: Tensor) -> Tensor:
    return (flat(adapter, module, "ia3_l", bias) - 1) * bias


def _hira(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    if "hira_embedding_A" in adapter.parts[module]:
        factor = _product(adapter, module, "hira_embedding_B", "hira_embedding_A", weight).T
    else:
        factor = _product(adapter, module, "hira_B", "hira_A", weight)
    require_shape(adapter, module, weight, (factor.shape[0], factor.shape[1]))
    return Dense(weight * factor)


def _product(adapter: Adapter, module: str, left: str, right: str, like: Tensor) -> Tensor:
    return adapter.tensor(module, left).to(like) @ adapter.tensor(module, right).to(like)


def _delora(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    a, b = adapter.tensor(module, "delora_A").to(weight), adapter.tensor(module, "delora_B").to(weight)
    require_shape(adapter, module, weight, (b.shape[0], a.shape[1]))
    strength = adapter.tensor(module, "delora_lambda").to(weight) / len(a)
    lengths = _length(a, 1) * _length(b, 0)
    if "delora_w_norm" in adapter.parts[module]:
        columns = adapter.tensor(module, "delora_w_norm").to(weight)
    else:
        columns = torch.linalg.vector_norm(weight, dim=0)
    return LowRank(b * (strength / lengths), a * columns)


def _length(factor: Tensor, dim: int) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(factor, dim=dim)
    return length.clamp(min=_SMALLEST_NORM)


def _glora_changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    refuse_options(adapter, "bias")  # a trained bias besides D and E: the two would have to be composed
    biases = {f"{module}.bias": partial(_glora_bias, adapter, base, module) for module in biased(adapter.parts, base)}
    return Changes(updates_by(_glora, adapter), biases)


def _glora(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    parts = adapter.parts[module]
    if "glora_A.Xd" in parts:
        factor = _product(adapter, module, "glora_A.Xd", "glora_A.Xu", weight)
        require_shape(adapter, module, weight, (factor.shape[0], factor.shape[1]))
        return Dense(weight * factor + _product(adapter, module, "glora_B.Xd", "glora_B.Xu", weight))
    if "glora_A.X" not in parts:
        return zero_update(weight)
    scale, shift = adapter.tensor(module, "glora_A.X").to(weight), adapter.tensor(module, "glora_B.X").to(weight)
    require_shape(adapter, module, weight, (None if scale.ndim == 1 else len(scale), None))
    rows = weight.shape[0]
    ones = weight.new_ones(1, weight.shape[1])
    return Sum(
        RowScaled(scale.reshape(-1).expand(rows), Dense(weight)), LowRank(shift.reshape(-1, 1).expand(rows, 1), ones)
    )


def _glora_bias(adapter: Adapter, base: TensorStore, module: str, bias: Tensor) -> Tensor:
    parts = adapter.parts[module]
    change = torch.zeros_like(bias)
    if "glora_D.X" in parts:
        change = bias * adapter.tensor(module, "glora_D.X").to(bias) + adapter.tensor(module, "glora_E.X").to(bias)
    weight = base[f"{module}.weight"].to(bias)
    if "glora_C.Xd" in parts:
        return change + (weight @ _product(adapter, module, "glora_C.Xd", "glora_C.Xu", bias))[:, 0]
    if "glora_C.X" in parts:
        return change + (weight @ adapter.tensor(module, "glora_C.X").to(bias))[:, 0]
    return change


READERS = {
    "IA3": Reader(parts=("ia3_l",), changes=_ia3_changes),
    "HIRA": Reader(
        parts=("hira_A", "hira_B", "hira_embedding_A", "hira_embedding_B"),
        changes=per_module(_hira),
    ),
    "GLORA": Reader(parts=_GLORA_PARTS, changes=_glora_changes),
    "DELORA": Reader(parts=("delora_A", "delora_B", "delora_lambda", "delora_w_norm"), changes=per_module(_delora)),
}
