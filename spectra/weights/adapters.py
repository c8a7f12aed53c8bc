"""PEFT adapters on disk: configuration, and tensors grouped by the base parameter that they change.

Reads ``adapter_model.safetensors``, or an old ``adapter_model.bin`` with ``weights_only=True``: nothing is unpickled
that could run code. Needs no peft.
"""

import pickle
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectra.errors import CorruptFileError
from spectra.linalg.operators import Operator
from spectra.runs.atomic import read_json
from spectra.runs.layout import ADAPTER_CONFIG, ADAPTER_PICKLE, ADAPTER_WEIGHTS
from spectra.weights.tensors import TensorStore

# From the base weight in float64, O × I, to ΔW. One such function a module, whatever the method.
UpdateFunction = Callable[[Tensor], Operator]

_PREFIX = "base_model.model."
# `lora_A.weight`, older `lora_A.default.weight`, `lora_magnitude_vector`, `lora_embedding_A`.
_PARAMETER = re.compile(r"(?P<module>.+?)\.(?P<part>lora_[A-Za-z_]+?)(?:\.default)?(?:\.weight)?$")


@dataclass(frozen=True)
class Adapter:
    """An adapter directory, its tensors still on disk.

    Attributes
    ----------
    path
        The directory.
    config
        ``adapter_config.json``.
    parts
        For each module, the stored key of each part: ``{"model.layers.0.self_attn.q_proj": {"lora_A": key, …}}``.
    whole
        Keys of tensors that replace a base parameter (``modules_to_save``, trained biases), by parameter name.
    store
        The tensors by key.
    """

    path: Path
    config: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, str]]
    whole: Mapping[str, str]
    store: Mapping[str, Tensor]

    @classmethod
    def open(cls, path: Path) -> "Adapter":
        """Open an adapter directory.

        Raises
        ------
        CorruptFileError
            If the configuration or the tensors cannot be read, or there is no tensor.
        """
        config = read_json(path / ADAPTER_CONFIG)
        store = _open_tensors(path)
        if not store:
            raise CorruptFileError(
                "holds no tensor", where=path, cure="save the adapter again (ZeRO-3 saves an empty one in old versions)"
            )
        parts: dict[str, dict[str, str]] = defaultdict(dict)
        whole: dict[str, str] = {}
        for key in store:
            name = key.removeprefix(_PREFIX)
            match = _PARAMETER.fullmatch(name)
            if match is None:
                whole[name] = key
            else:
                parts[match["module"]][match["part"]] = key
        return cls(path, config, dict(parts), whole, store)

    @property
    def size(self) -> int:
        """Numbers in the adapter."""
        if isinstance(self.store, TensorStore):
            return sum(map(prod, self.store.shapes.values()))
        return sum(tensor.numel() for tensor in self.store.values())

    def tensor(self, module: str, part: str) -> Tensor:
        """Return one part of a module.

        Raises
        ------
        CorruptFileError
            If the adapter lacks it.
        """
        key = self.parts.get(module, {}).get(part)
        if key is None:
            raise CorruptFileError(f"has no {part} for {module}", where=self.path, cure="save the adapter again")
        return self.store[key]


def _open_tensors(path: Path) -> Mapping[str, Tensor]:
    if (path / ADAPTER_WEIGHTS).exists():
        return TensorStore.open_file(path / ADAPTER_WEIGHTS)
    try:
        tensors = torch.load(path / ADAPTER_PICKLE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CorruptFileError(
            f"cannot be read as tensors only ({type(error).__name__})",
            where=path / ADAPTER_PICKLE,
            cure="save the adapter as safetensors",
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CorruptFileError("is not a dictionary of tensors", where=path / ADAPTER_PICKLE, cure="save it again")
    return tensors
