"""ΔW of LoRA on stacked experts (``target_parameters``): each expert's projection is a separate matrix.

For a stack of E experts peft trains A (r·E × I), rows by (expert, rank), and B (O × r·E), columns by (rank, expert):
ΔW of expert e is s·B_e·A_e. transformers stacks the experts, gate above up, in memory only: a checkpoint stores
``experts.3.gate_proj.weight`` … one by one, and ΔW has these names. If a checkpoint stores the stack itself, or uses
other names, the stack is skipped with the reason.
"""

import re
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
from torch import Tensor

from spectra.errors import CorruptFileError
from spectra.linalg.operators.basic import LowRank, Operator
from spectra.weights.readers.adapter import Adapter, UpdateFunction, require_shape
from spectra.weights.readers.rank_patterns import rank_and_alpha
from spectra.weights.storage.tensors import TensorStore

# Projections in a stacked parameter, top to bottom.
_STACKED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


@dataclass(frozen=True)
class ExpertUpdates:
    """Updates of stacked experts.

    Attributes
    ----------
    modules
        Modules of the adapter that are stacks.
    matrices
        The updates, by the base's name of each expert's projection.
    skipped
        Stacks that cannot be read, with the reason.
    """

    modules: set[str] = field(default_factory=set)
    matrices: dict[str, UpdateFunction] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Stack:
    parameter: str
    rank: int
    scale: float
    experts: int


def expert_updates(adapter: Adapter, base: TensorStore) -> ExpertUpdates:
    """Return the updates of every stack that the adapter's ``target_parameters`` name.

    Raises
    ------
    CorruptFileError
        If the rank of a stack's tensors differs from the configuration.
    """
    found = ExpertUpdates()
    if not adapter.config.get("target_parameters"):
        return found
    for module in adapter.parts:
        name = re.sub(r"(\.base_layer)+$", "", module)
        if f"{name}.weight" in base.files or "lora_A" not in adapter.parts[module]:
            continue
        found.modules.add(module)
        stack = _find(adapter, module, name, base)
        if stack is None:
            found.skipped[module] = "a stack of experts that the base does not store expert by expert"
            continue
        heights = [base.shapes[f"{name}.0.{projection}.weight"][0] for projection in _STACKED[stack.parameter]]
        edges = [0, *np.cumsum(heights).tolist()]
        for projection, (top, bottom) in zip(_STACKED[stack.parameter], pairwise(edges), strict=True):
            for expert in range(stack.experts):
                formula = partial(_expert, adapter, module, stack, expert, slice(top, bottom))
                found.matrices[f"{name}.{expert}.{projection}"] = formula
    return found


def _find(adapter: Adapter, module: str, name: str, base: TensorStore) -> _Stack | None:
    """Return the stacked parameter of a module's factors; nested wrappers are told apart by their shapes."""
    targets = {target.rpartition(".")[2] for target in adapter.config["target_parameters"]}
    columns, rows = _shape(adapter, module, "lora_A")[1], _shape(adapter, module, "lora_B")[0]
    for parameter in _STACKED.keys() & targets:
        shapes = [base.shapes.get(f"{name}.0.{projection}.weight") for projection in _STACKED[parameter]]
        if None in shapes or (sum(s[0] for s in shapes if s), shapes[0][1] if shapes[0] else 0) != (rows, columns):
            continue
        experts = len([key for key in base.files if re.fullmatch(rf"{re.escape(name)}\.\d+\.down_proj\.weight", key)])
        rank, alpha = rank_and_alpha(adapter.config, f"{name}.{parameter}")
        if rank * experts != _shape(adapter, module, "lora_A")[0]:
            raise CorruptFileError(
                f"{module}: the configuration has rank {rank} for {experts} experts, the tensors have "
                f"{_shape(adapter, module, 'lora_A')[0]} rows",
                where=adapter.path,
                hint="restore the adapter_config.json of these tensors",
            )
        return _Stack(parameter, rank, alpha / rank**0.5 if adapter.config.get("use_rslora") else alpha / rank, experts)
    return None


def _expert(adapter: Adapter, module: str, stack: _Stack, expert: int, rows: slice, weight: Tensor) -> Operator:
    a = adapter.tensor(module, "lora_A").view(stack.experts, stack.rank, -1)[expert]
    b = adapter.tensor(module, "lora_B").view(-1, stack.rank, stack.experts)[rows, :, expert]
    update = LowRank(b.to(weight), a.to(weight), stack.scale)
    require_shape(adapter, module, weight, update.shape)
    return update


def _shape(adapter: Adapter, module: str, part: str) -> tuple[int, ...]:
    key, store = adapter.parts[module][part], adapter.store
    return store.shapes[key] if isinstance(store, TensorStore) else tuple(store[key].shape)
