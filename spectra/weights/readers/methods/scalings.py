"""ΔW of methods that scale the base weight W entry by entry, or train vectors only.

- IA³: W∘l − W, l a column (one factor an output) or, in feed-forward modules, a row (one an input); an output's bias
  is scaled with it. Liu et al. 2022, arXiv 2205.05638.
- HiRA: W∘(BA). Huang et al. 2025, openreview TwJrTz9cRS.
- GLoRA: W∘A + B, each of A and B a low-rank product, a column, one number or nothing; a bias b becomes
  b + b∘D + E + W·C. Chavan et al. 2023, arXiv 2306.07967.
- DeLoRA: B·diag(λ/(r‖a_i‖‖b_i‖))·A·diag(‖w_j‖), ‖w_j‖ the norm of column j of W. Bini et al. 2025, arXiv 2503.18225.
- LN tuning: the new norm minus the old, and no matrix. Zhao et al. 2023, arXiv 2312.11420.
- BEFT: an addition to biases, and no matrix. arXiv 2509.15974.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from spectra.errors import CorruptFileError, UnsupportedMethodError
from spectra.linalg.operators.basic import Dense, LowRank, Operator, RowScaled, Sum
from spectra.linalg.operators.multiplicative import zero_update
from spectra.weights.readers.adapter import Adapter, Changes, Reader, per_module, refuse_options, require_shape
from spectra.weights.readers.offset import Start
from spectra.weights.storage.tensors import TensorStore

# peft's floor under the norms that DeLoRA divides by.
_SMALLEST_NORM = 1e-4
_GLORA_PARTS = tuple(f"glora_{path}.{factor}" for path in "ABCDE" for factor in ("Xd", "Xu", "X", "zeros"))


def biased(modules: Iterable[str], base: TensorStore) -> list[str]:
    """Return those modules that have a bias in the base."""
    return [module for module in modules if f"{module}.bias" in base.files]


def _ia3_changes(adapter: Adapter, start: Start | None, base: TensorStore) -> Changes:
    matrices = {module: partial(_ia3, adapter, module) for module in adapter.parts}
    by_output = (module for module in biased(adapter.parts, base) if adapter.tensor(module, "ia3_l").shape[1] == 1)
    return Changes(matrices, {f"{module}.bias": partial(_ia3_bias, adapter, module) for module in by_output})


def _ia3(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    factors = adapter.tensor(module, "ia3_l").to(weight)
    rows, columns = factors.shape
    if columns == 1:
        require_shape(adapter, module, weight, (rows, None))
        return RowScaled(factors[:, 0] - 1, Dense(weight))
    require_shape(adapter, module, weight, (None, columns))
    return RowScaled(factors[0] - 1, Dense(weight.T)).T


def _ia3_bias(adapter: Adapter, module: str, bias: Tensor) -> Tensor:
    return (_flat(adapter, module, "ia3_l", bias) - 1) * bias


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


def _glora_changes(adapter: Adapter, start: Start | None, base: TensorStore) -> Changes:
    refuse_options(adapter, "bias")  # a trained bias under D and E: the two would have to be composed
    matrices = {module: partial(_glora, adapter, module) for module in adapter.parts}
    modules = biased(adapter.parts, base)
    return Changes(matrices, {f"{module}.bias": partial(_glora_bias, adapter, base, module) for module in modules})


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


def _norm_changes(adapter: Adapter, start: Start | None, base: TensorStore) -> Changes:
    matrices, vectors = {}, {}
    for module, parts in adapter.parts.items():
        if len(base.shapes.get(f"{module}.weight", ())) == 2:
            matrices[module] = partial(_new_matrix, adapter, module, f"{module}.weight" in base.transposed)
        else:
            vectors[module] = partial(_new_vector, adapter, module, "ln_tuning_layers")
        if "ln_tuning_layers.bias" in parts:
            vectors[f"{module}.bias"] = partial(_new_vector, adapter, module, "ln_tuning_layers.bias")
    return Changes(matrices, vectors)


def _new_matrix(adapter: Adapter, module: str, transposed: bool, weight: Tensor) -> Operator:
    new = adapter.tensor(module, "ln_tuning_layers").to(weight)
    new = new.T if transposed else new
    require_shape(adapter, module, weight, (new.shape[0], new.shape[1]))
    return Dense(new - weight)


def _new_vector(adapter: Adapter, module: str, part: str, old: Tensor) -> Tensor:
    return _flat(adapter, module, part, old) - old


def _flat(adapter: Adapter, module: str, part: str, like: Tensor) -> Tensor:
    vector = adapter.tensor(module, part).to(like).flatten()
    if vector.shape != like.shape:
        raise CorruptFileError(
            f"{module}: {part} has {len(vector)} numbers, the base {like.numel()}",
            where=adapter.path,
            hint="give the base that the adapter was trained on with --base",
        )
    return vector


def _bias_changes(adapter: Adapter, start: Start | None, base: TensorStore) -> Changes:
    found = biased(adapter.parts, base)
    if not found:
        raise UnsupportedMethodError(
            "BEFT adds to biases, and the base has none in these modules: no parameter of the base changes",
            where=adapter.path,
        )
    return Changes(
        {},
        {f"{module}.bias": partial(_added_bias, adapter, module) for module in found},
        {f"{module}.bias": "the base has no such bias to add to" for module in adapter.parts if module not in found},
    )


def _added_bias(adapter: Adapter, module: str, bias: Tensor) -> Tensor:
    return _flat(adapter, module, "beft_bias", bias)


READERS = {
    "IA3": Reader(("ia3_l",), lambda config: "ia3", _ia3_changes),
    "HIRA": Reader(
        ("hira_A", "hira_B", "hira_embedding_A", "hira_embedding_B"),
        lambda config: "hira",
        per_module(_hira),
    ),
    "GLORA": Reader(_GLORA_PARTS, lambda config: "glora", _glora_changes),
    "DELORA": Reader(
        ("delora_A", "delora_B", "delora_lambda", "delora_w_norm"), lambda config: "delora", per_module(_delora)
    ),
    "LN_TUNING": Reader(("ln_tuning_layers", "ln_tuning_layers.bias"), lambda config: "layernorm", _norm_changes),
    "BEFT": Reader(("beft_bias",), lambda config: "beft", _bias_changes),
}
