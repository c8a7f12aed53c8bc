"""ΔW of the LoRA family: LoRA, rsLoRA, rank-1, DoRA, and every initialization that moves the base.

With s the scaling, D = s·BA, or D = s·(BA − B₀A₀) for a method that moves the base at initialization, since the
frozen weight is then W − s·B₀A₀:

- LoRA, rsLoRA, PiSSA …: ΔW = D.
- DoRA: ΔW = diag(d)(W + D) − W with d = m/‖W + D‖_row, kept as diag(d − 1)W + diag(d)D.
- An embedding's factors are those of its transpose: ΔE = s(BA)ᵀ, with one magnitude per column.
- ``lora_bias``: the bias of B, times s, is added to the module's.
- ``target_parameters``: each expert of a stack is a separate matrix
  (:mod:`spectra.weights.readers.families.lora_experts`).

s = α/r (Hu et al. 2021), α/√r for rsLoRA (Kalajdzievski 2023). DoRA: Liu et al. 2024. PiSSA: Meng et al. 2024. Other
options: :mod:`spectra.weights.readers.families.lora_options`.
"""

from functools import partial

import torch
from torch import Tensor

from spectra.errors import MissingInitialError
from spectra.linalg.operators.basic import Dense, Difference, Operator, RowScaled, Sum
from spectra.weights.readers.adapter import Adapter, Changes, Reader, updates_by
from spectra.weights.readers.families.lora_experts import expert_updates
from spectra.weights.readers.families.lora_options import (
    MAGNITUDE,
    STATE,
    moving_start,
    product,
    refuse_unread,
    removed,
    scale,
)
from spectra.weights.readers.families.tokens import TOKEN_ROWS, token_updates
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.readers.oriented import apply_oriented
from spectra.weights.readers.rank_patterns import rank_and_alpha
from spectra.weights.storage.tensors import TensorStore

_EMBEDDING = "lora_embedding_A"
_BIAS = "lora_B.bias"
_ROWS = 128


def changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    """Return the changes of a LoRA-family adapter.

    Parameters
    ----------
    adapter
        The adapter.
    offset
        Offset that initialization subtracted from the base; needed for methods that move it.
    base
        The original base weights; their shapes are checked when an update is read.

    Raises
    ------
    UnsupportedMethodError
        If the configuration has an option or initialization that cannot be read exactly.
    MissingInitialError
        If the method moves the base and the offset is not known.
    """
    refuse_unread(adapter, started=offset is not None)
    if offset is None and moving_start(adapter.config) is not None:
        raise MissingInitialError(
            f"{adapter.config['init_lora_weights']} moves the base at initialization: ΔW needs the adapter of step 0",
            where=adapter.path,
            hint="pass the adapter or the residual base of step 0 with --initial DIR",
        )
    experts, tokens = expert_updates(adapter, base), token_updates(adapter)
    adapted = set(adapter.parts) - experts.modules - set(tokens)
    matrices = updates_by(partial(_update, offset), adapter, (module for module in adapter.parts if module in adapted))
    biases = {f"{module}.bias": partial(_bias, adapter, module) for module in adapted if _BIAS in adapter.parts[module]}
    return Changes({**matrices, **experts.matrices, **tokens}, biases, experts.skipped)


def _update(offset: InitialOffset | None, adapter: Adapter, module: str, weight: Tensor) -> Operator:
    embedding = _EMBEDDING in adapter.parts[module]  # its initialization never moves the base
    formula = partial(_formula, None if embedding else offset)
    return apply_oriented(formula, adapter, module, weight, embedding=embedding)


def _formula(offset: InitialOffset | None, adapter: Adapter, module: str, weight: Tensor) -> Operator:
    moved: Operator = product(adapter, module, weight)
    if offset is not None:
        moved = offset.subtract(module, weight, moved)
    if adapter.config.get("kasa_config"):
        moved = Difference(moved, removed(weight, rank_and_alpha(adapter.config, module)[0]))
    if not adapter.config.get("use_dora"):
        return moved
    return _with_magnitude(weight, moved, adapter.tensor(module, MAGNITUDE).to(weight))


def _bias(adapter: Adapter, module: str, bias: Tensor) -> Tensor:
    return adapter.tensor(module, _BIAS).to(bias) * scale(adapter, module)


def _with_magnitude(weight: Tensor, moved: Operator, magnitude: Tensor) -> Operator:
    # In blocks of rows: W + D would be a second matrix of the base's size.
    spans = [(at, min(at + _ROWS, len(weight))) for at in range(0, len(weight), _ROWS)]
    norms = [torch.linalg.vector_norm(weight[lo:hi] + moved.rows(lo, hi), dim=1) for lo, hi in spans]
    scales = magnitude.reshape(-1) / torch.cat(norms)
    return Sum(RowScaled(scales - 1, Dense(weight)), RowScaled(scales, moved))


LORA = Reader(
    parts=("lora_A", "lora_B", _BIAS, _EMBEDDING, "lora_embedding_B", "lora_diag", MAGNITUDE, *STATE, TOKEN_ROWS),
    changes=changes,
)
READERS = {"LORA": LORA}
