"""ΔW of the LoRA family: LoRA, rsLoRA, rank-1, DoRA, and every start that moves the base.

With s the scaling, D = s·BA, or D = s·(BA − B₀A₀) for a method that moves the base at initialisation, since the
frozen weight is then W − s·B₀A₀:

- LoRA, rsLoRA, PiSSA …: ΔW = D.
- DoRA: ΔW = diag(d)(W + D) − W with d = m/‖W + D‖_row, kept as diag(d − 1)W + diag(d)D.
- An embedding's factors are those of its transpose: ΔE = s(BA)ᵀ, its magnitudes one a column.
- ``lora_bias``: the bias of B, times s, is added to the module's.
- ``target_parameters``: each expert of a stack is a matrix of its own (:mod:`spectra.weights.experts`).

s = α/r (Hu et al. 2021), α/√r for rsLoRA (Kalajdzievski 2023). DoRA: Liu et al. 2024. PiSSA: Meng et al. 2024. Other
options: :mod:`spectra.weights.lora_options`.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from spectra.errors import CorruptFileError, MissingInitialError
from spectra.linalg.operators import Dense, Difference, LowRank, Operator, RowScaled, Sum
from spectra.weights.adapters import Adapter, Changes, Reader, require_shape
from spectra.weights.experts import expert_updates
from spectra.weights.lora_options import MAGNITUDE, STATE, factors, method_name, moving_start, refuse_unread, removed
from spectra.weights.oriented import apply_oriented, stored_flipped
from spectra.weights.patterns import rank_and_alpha
from spectra.weights.tensors import TensorStore
from spectra.weights.tokens import TOKEN_ROWS, token_updates

_EMBEDDING = "lora_embedding_A"
_BIAS = "lora_B.bias"


def changes(adapter: Adapter, initial: Path | None, base: TensorStore) -> Changes:
    """Return what a LoRA-family adapter changes.

    Parameters
    ----------
    adapter
        The adapter.
    initial
        Directory of the step-0 adapter, needed by methods that move the base.
    base
        The original base weights; their shapes are checked when an update is read.

    Raises
    ------
    UnsupportedMethodError
        If the configuration has an option or initialisation that cannot be read exactly.
    MissingInitialError
        If the method moves the base and there is no step-0 adapter.
    """
    refuse_unread(adapter)
    start = _open_initial(adapter, initial) if moving_start(adapter.config) else None
    experts, tokens = expert_updates(adapter, base), token_updates(adapter)
    adapted = set(adapter.parts) - experts.modules - set(tokens)
    matrices = {module: partial(_update, adapter, start, module) for module in adapter.parts if module in adapted}
    biases = {f"{module}.bias": partial(_bias, adapter, module) for module in adapted if _BIAS in adapter.parts[module]}
    return Changes({**matrices, **experts.matrices, **tokens}, biases, experts.skipped)


def _update(adapter: Adapter, start: Adapter | None, module: str, weight: Tensor) -> Operator:
    flipped = _EMBEDDING in adapter.parts[module] or stored_flipped(adapter.config)
    return apply_oriented(partial(_formula, start), adapter, module, weight, flipped=flipped)


def _formula(start: Adapter | None, adapter: Adapter, module: str, weight: Tensor) -> Operator:
    moved = _product(adapter, module, weight)
    if start is not None:
        moved = Difference(moved, _product(start, module, weight))
    if adapter.config.get("kasa_config"):
        moved = Difference(moved, removed(weight, rank_and_alpha(adapter.config, module)[0]))
    if not adapter.config.get("use_dora"):
        return moved
    return _with_magnitude(weight, moved, adapter.tensor(module, MAGNITUDE).to(weight))


def _product(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    rank, _ = rank_and_alpha(adapter.config, module)
    b, a = factors(adapter, module, weight, rank)
    require_shape(adapter, module, weight, (b.shape[0], a.shape[1]))
    if a.shape[0] != rank or b.shape[1] != rank:
        raise CorruptFileError(
            f"{module}: the configuration says rank {rank}, the tensors have {a.shape[0]}",
            where=adapter.path,
            cure="restore the adapter_config.json that belongs to these tensors",
        )
    return LowRank(b, a, _scale(adapter, module))


def _bias(adapter: Adapter, module: str, bias: Tensor) -> Tensor:
    return adapter.tensor(module, _BIAS).to(bias) * _scale(adapter, module)


def _scale(adapter: Adapter, module: str) -> float:
    rank, alpha = rank_and_alpha(adapter.config, module)
    return alpha / rank**0.5 if adapter.config.get("use_rslora") else alpha / rank


def _with_magnitude(weight: Tensor, moved: Operator, magnitude: Tensor) -> Operator:
    norms = torch.linalg.vector_norm(weight + moved.dense(), dim=1)
    scales = magnitude.reshape(-1) / norms
    return Sum(RowScaled(scales - 1, Dense(weight)), RowScaled(scales, moved))


def _open_initial(adapter: Adapter, initial: Path | None) -> Adapter:
    if moving_start(adapter.config) == "loftq":
        raise MissingInitialError(
            "LoftQ froze quantised weights, which no adapter holds",
            where=adapter.path,
            cure="merge it with those weights in float32 and analyse the full checkpoint with --base",
        )
    if initial is None:
        raise MissingInitialError(
            f"{adapter.config['init_lora_weights']} moves the base at initialisation, so ΔW = s(BA − B₀A₀) needs the "
            "adapter of step 0, which is not there",
            where=adapter.path,
            cure="save it before training (`model.save_pretrained(run/'checkpoint-0')` right after get_peft_model), or "
            "convert the adapter with peft's path_initial_model_for_weight_conversion",
        )
    start = Adapter.open(initial, LORA)
    absent = sorted(set(adapter.parts) - set(start.parts))
    if absent:
        raise MissingInitialError(
            f"the step-0 adapter lacks {absent[0]}", where=initial, cure="give the step 0 of this very run"
        )
    return start


LORA = Reader(
    parts=("lora_A", "lora_B", _BIAS, _EMBEDDING, "lora_embedding_B", "lora_diag", MAGNITUDE, *STATE, TOKEN_ROWS),
    method=method_name,
    changes=changes,
)
READERS = {"LORA": LORA}
