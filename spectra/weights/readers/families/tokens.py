"""ΔW of trainable tokens, which replace some rows of an embedding.

With new rows T for the tokens t₁ … t_n, row t_i of ΔW is T_i − W_{t_i}; all others are zero. peft stores the new rows
themselves under the name ``trainable_tokens_delta``.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spectra.errors import BaseModelError, CorruptFileError
from spectra.linalg.operators.basic import Dense, Operator
from spectra.linalg.operators.kronecker_and_circulant import Placed
from spectra.weights.readers.adapter import Adapter, Changes, Reader, UpdateFunction, updates_by
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.storage.tensors import TensorStore

_ROWS = "trainable_tokens_delta"
# The same tensor if another method trains tokens besides its own parameters.
TOKEN_ROWS = f"token_adapter.{_ROWS}"


def token_updates(adapter: Adapter) -> dict[str, UpdateFunction]:
    """Return the updates of embeddings whose rows another method's adapter trains (``trainable_token_indices``)."""
    modules = [module for module, parts in adapter.parts.items() if TOKEN_ROWS in parts]
    given = adapter.config.get("trainable_token_indices")
    return updates_by(partial(_replaced_rows, TOKEN_ROWS, given), adapter, modules)


def _changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    return Changes(updates_by(partial(_replaced_rows, _ROWS, adapter.config.get("token_indices")), adapter))


def _indices_of(given: Any, module: str) -> list[int] | None:
    """Return the tokens of one embedding, from a list for the input embedding or a mapping of lists by module name."""
    if not isinstance(given, Mapping):
        return given if isinstance(given, list) else None
    found: Iterator[list[int]] = (
        tokens for name, tokens in given.items() if module == name or module.endswith(f".{name}")
    )
    return next(found, None)


def _replaced_rows(part: str, given: Any, adapter: Adapter, module: str, weight: Tensor) -> Operator:
    new, indices = adapter.tensor(module, part).to(weight), _indices_of(given, module)
    if indices is None or len(indices) != len(new):
        raise CorruptFileError(
            f"{module}: has rows of {len(new)} tokens, but the configuration names {len(indices or [])}",
            where=adapter.path,
            hint="restore the adapter_config.json of these tensors",
        )
    rows = torch.tensor(indices, device=weight.device)
    if int(rows.max()) >= len(weight) or new.shape[1] != weight.shape[1]:
        raise BaseModelError(
            f"{module}: token {int(rows.max())} of width {new.shape[1]} is not in a base of {weight.shape[0]} × "
            f"{weight.shape[1]}",
            where=adapter.path,
            hint="pass the base model with the vocabulary used in training with --base",
        )
    return Placed(Dense(new - weight[rows]), (weight.shape[0], weight.shape[1]), rows)


READERS = {"TRAINABLE_TOKENS": Reader(parts=(_ROWS,), changes=_changes)}
