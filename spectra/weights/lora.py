"""ΔW of the LoRA family: LoRA, rsLoRA, rank-1, DoRA, PiSSA.

With s the scaling, D = s·BA, or D = s·(BA − B₀A₀) for a method that moves the base at initialisation, since the
frozen weight is then W − s·B₀A₀:

- LoRA, rsLoRA, PiSSA: ΔW = D.
- DoRA: ΔW = diag(d)(W + D) − W with d = m/‖W + D‖_row, kept as diag(d − 1)W + diag(d)D.

s = α/r (Hu et al. 2021), α/√r for rsLoRA (Kalajdzievski 2023). DoRA: Liu et al. 2024. PiSSA: Meng et al. 2024.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectra.errors import CorruptFileError, MissingInitialError, UnsupportedMethodError
from spectra.linalg.operators import Dense, Difference, LowRank, Operator, RowScaled, Sum
from spectra.weights.adapters import Adapter, Changes, Reader
from spectra.weights.tensors import TensorStore

_MAGNITUDE = "lora_magnitude_vector"
# Initialisations that leave W + s·BA = W at the start, so that ΔW = s·BA needs no step 0.
_PLAIN_INITS = {"gaussian", "eva", "orthogonal", "mica"}
# Options that change the forward pass in ways that the formulas above do not have.
_UNREAD = (
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)


def moves_base(config: Mapping[str, Any]) -> bool:
    """Return whether the method replaces the frozen weight by W − s·B₀A₀ when it starts."""
    init = config.get("init_lora_weights", True)
    return isinstance(init, str) and (init == "pissa" or init.startswith("pissa_niter_"))


def method_name(config: Mapping[str, Any]) -> str:
    """Return the field's name for what a LoRA configuration trains."""
    names = [
        name
        for name, is_set in (
            ("dora", config.get("use_dora")),
            ("pissa", moves_base(config)),
            ("rslora", config.get("use_rslora")),
        )
        if is_set
    ]
    return "-".join(names) or "lora"


def changes(adapter: Adapter, initial: Path | None, base: TensorStore) -> Changes:
    """Return, for each module of a LoRA-family adapter, the function from base weight to ΔW.

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
    _refuse_unread(adapter)
    start = _open_initial(adapter, initial) if moves_base(adapter.config) else None
    return Changes({module: _Update(adapter, start, module) for module in adapter.parts})


class _Update:
    """ΔW of one module, read when called."""

    def __init__(self, adapter: Adapter, start: Adapter | None, module: str) -> None:
        self.adapter = adapter
        self.start = start
        self.module = module

    def __call__(self, weight: Tensor) -> Operator:
        moved = _product(self.adapter, self.module, weight)
        if self.start is not None:
            moved = Difference(moved, _product(self.start, self.module, weight))
        if not self.adapter.config.get("use_dora"):
            return moved
        return _with_magnitude(weight, moved, self.adapter.tensor(self.module, _MAGNITUDE).to(weight))


def _product(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    a, b = adapter.tensor(module, "lora_A").to(weight), adapter.tensor(module, "lora_B").to(weight)
    rank, alpha = _rank_and_alpha(adapter.config, module)
    if (b.shape[0], a.shape[1]) != tuple(weight.shape):
        raise CorruptFileError(
            f"{module}: the update is {b.shape[0]} × {a.shape[1]}, the base weight {weight.shape[0]} × "
            f"{weight.shape[1]}",
            where=adapter.path,
            cure="give the base that the adapter was trained on with --base",
        )
    if a.shape[0] != rank or b.shape[1] != rank:
        raise CorruptFileError(
            f"{module}: the configuration says rank {rank}, the tensors have {a.shape[0]}",
            where=adapter.path,
            cure="restore the adapter_config.json that belongs to these tensors",
        )
    return LowRank(b, a, alpha / rank**0.5 if adapter.config.get("use_rslora") else alpha / rank)


def _with_magnitude(weight: Tensor, moved: Operator, magnitude: Tensor) -> Operator:
    norms = torch.linalg.vector_norm(weight + moved.dense(), dim=1)
    factors = magnitude.reshape(-1) / norms
    return Sum(RowScaled(factors - 1, Dense(weight)), RowScaled(factors, moved))


def _rank_and_alpha(config: Mapping[str, Any], module: str) -> tuple[int, float]:
    rank = _by_pattern(config.get("rank_pattern"), module, config.get("r", 8))
    return int(rank), float(_by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of the module's path, as peft does."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _refuse_unread(adapter: Adapter) -> None:
    config = adapter.config
    option = next((name for name in _UNREAD if config.get(name)), None)
    if option is not None:
        raise UnsupportedMethodError(
            f"the adapter sets {option}, which spectra does not read exactly yet",
            where=adapter.path,
            cure="merge it in float32 and analyse the full checkpoint with --base",
        )
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init not in _PLAIN_INITS and not moves_base(config):
        raise UnsupportedMethodError(
            f"init_lora_weights={init!r} is not read exactly yet, and B·A would not be its update",
            where=adapter.path,
            cure="merge it in float32 and analyse the full checkpoint with --base",
        )
    if config.get("use_dora") and not any(_MAGNITUDE in parts for parts in adapter.parts.values()):
        raise CorruptFileError(
            f"says use_dora, and holds no {_MAGNITUDE}", where=adapter.path, cure="restore the matching configuration"
        )


def _open_initial(adapter: Adapter, initial: Path | None) -> Adapter:
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


LORA = Reader(parts=("lora_A", "lora_B", _MAGNITUDE), method=method_name, changes=changes)
READERS = {"LORA": LORA}
