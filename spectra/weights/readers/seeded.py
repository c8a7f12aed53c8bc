"""Random tensors that an adapter does not store, redrawn from its seed in peft's order.

Everything is drawn on the CPU from one seeded generator: another order of draws, or one draw of another size, gives
other numbers.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectra.errors import BaseModelError, MissingDependencyError, UnsupportedMethodError
from spectra.runs.layout import MODEL_CONFIG
from spectra.weights.readers.adapter import Adapter, refuse_options
from spectra.weights.storage.tensors import TensorStore

# Function of the configuration and the largest output and input sizes that returns the shared A and B.
Draw = Callable[[Mapping[str, Any], int, int], tuple[Tensor, Tensor]]

# Nonzero entries of RandLoRA's sparse bases: one in this many.
_SPARSITY = 3.0


def largest_shape(adapter: Adapter, base: TensorStore) -> tuple[int, int]:
    """Return the largest O and the largest I over the adapted modules, which is the size of shared projections.

    Raises
    ------
    BaseModelError
        If the base lacks an adapted module, so that the size is not known.
    """
    absent = next((module for module in adapter.parts if f"{module}.weight" not in base.files), None)
    if absent is not None:
        raise BaseModelError(
            f"has no {absent}, which the adapter changes: its shared projections cannot be redrawn from the seed",
            where=base.where,
            hint="pass the base it was trained on with --base, or save it with save_projection=True",
        )
    shapes = [base.shapes[f"{module}.weight"] for module in adapter.parts]
    rows, columns = (max(shape[side] for shape in shapes) for side in (0, 1))
    return rows, columns


def vera(config: Mapping[str, Any], rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return VeRA's A (r × I) and B (O × r), Kaiming uniform."""
    generator, rank = _generator(config), int(config["r"])
    return _kaiming((rank, columns), generator), _kaiming((rows, rank), generator)


def pvera(config: Mapping[str, Any], rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return PVeRA's A (2r × I: means, then log-variances) and B (O × r), Kaiming uniform."""
    generator, rank = _generator(config), int(config["r"])
    return _kaiming((2 * rank, columns), generator), _kaiming((rows, rank), generator)


def randlora(config: Mapping[str, Any], rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return RandLoRA's A (r × 1 × small) and B (large × bases × r), of unit standard deviation.

    Entries are Kaiming uniform, or −1, 0 and 1 for ``sparse`` and ``very_sparse``.
    """
    generator, rank = _generator(config), int(config["r"])
    small, large = sorted((rows, columns))
    bases = math.ceil(small / rank)
    if config.get("very_sparse") or config.get("sparse"):
        sparsity = math.sqrt(small) if config.get("very_sparse") else _SPARSITY
        a = _signs(torch.rand((rank, 1, small), generator=generator), sparsity)
        b = _signs(torch.rand((large, bases, rank), generator=generator), sparsity)
    else:
        a = _bfloat16((rank, 1, small), generator)
        b = torch.cat([_bfloat16((large, 1, rank), generator) for _ in range(bases)], dim=1)
    return a / a.std(), b / b.std()


def positions(rows: int, columns: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the row and column indices of ``count`` entries of a matrix, drawn without replacement."""
    entries = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))[:count]
    return entries // columns, entries % columns


def unilora_indices(adapter: Adapter, base: TensorStore) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, per adapted module, the index into θ of each entry of B (O × r) and of A (r × I).

    Indices are assigned in the order in which the model defines its modules, which only its code shows.

    Raises
    ------
    MissingDependencyError
        If transformers, which knows that order, is not installed.
    """
    config, rank = adapter.config, int(adapter.config["r"])
    sizes = _linear_modules(adapter, base)
    indices = torch.from_numpy(
        _balanced(
            sum(rank * (rows + columns) for rows, columns in sizes.values()),
            int(config["theta_d_length"]),
            int(config["proj_seed"]),
        )
    )
    found, start = {}, 0
    for module, (rows, columns) in sizes.items():
        middle, end = start + rank * columns, start + rank * (columns + rows)
        found[module] = indices[middle:end].view(rows, rank), indices[start:middle].view(rank, columns)
        start = end
    return found


def precision(base: TensorStore, module: str) -> torch.dtype:
    """Return the dtype of a base weight, to which peft rounds its random tensors."""
    return base[f"{module}.weight"].dtype


def _generator(config: Mapping[str, Any]) -> torch.Generator:
    return torch.Generator().manual_seed(int(config.get("projection_prng_key", 0)))


def _kaiming(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    bound = math.sqrt(3) * (math.sqrt(2) / math.sqrt(math.prod(shape[1:])))
    return torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)


def _bfloat16(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw as peft does where bfloat16 is available: torch's Kaiming uniform of slope √5, in bfloat16."""
    return torch.nn.init.kaiming_uniform_(torch.empty(shape, dtype=torch.bfloat16), math.sqrt(5), generator=generator)


def _signs(uniform: Tensor, sparsity: float) -> Tensor:
    tail = 1 / (2 * sparsity)
    return (uniform > 1 - tail).to(torch.float32) - (uniform < tail).to(torch.float32)


def _balanced(count: int, length: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return ``count`` shuffled indices below ``length`` whose frequencies differ by at most one."""
    random = np.random.default_rng(seed)
    indices = np.repeat(np.arange(length), count // length)
    if count % length:
        indices = np.concatenate([indices, random.choice(length, size=count % length, replace=False)])
    random.shuffle(indices)
    return indices


def _linear_modules(adapter: Adapter, base: TensorStore) -> dict[str, tuple[int, int]]:
    """Return (O, I) of every adapted module, in the order of the model's code, without allocating a weight."""
    refuse_options(adapter, "layers_to_transform", "layers_pattern")
    targets = adapter.config.get("target_modules")
    if not targets:
        raise UnsupportedMethodError(
            "names no target_modules and stores no indices, so it is not known which modules it changes",
            where=adapter.path,
            hint="load it with peft, set save_indices=True and save it again",
        )
    skip = [f"({name})" for name in adapter.config.get("modules_to_save") or []]
    sizes = {}
    for name, module in _skeleton(base).named_modules():
        replaced = any(re.match(rf"(^|.*\.){other}($|\..*)", name) for other in skip)
        if hasattr(module, "weight") and module.weight.ndim == 2 and not replaced and _is_target(targets, name):
            rows, columns = module.weight.shape
            sizes[name] = (columns, rows) if f"{name}.weight" in base.transposed else (rows, columns)
    return sizes


def _is_target(targets: str | list[str], name: str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _skeleton(base: TensorStore) -> Any:
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise MissingDependencyError(
            "the adapter stores no indices, and their order is defined by the model's code",
            hint="install transformers, or save the adapter with save_indices=True",
        ) from error
    if "model_type" not in base.config:
        raise BaseModelError("names no model_type", where=base.directory / MODEL_CONFIG, hint="restore the file")
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base.directory))
