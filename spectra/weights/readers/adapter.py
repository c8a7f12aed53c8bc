"""PEFT adapters on disk: configuration, and tensors grouped by base parameter.

Reads ``adapter_model.safetensors``, or an old ``adapter_model.bin`` with ``weights_only=True``, so that no code is run
by unpickling. Does not need peft.
"""

import pickle
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectra.errors import CorruptFileError, UnsupportedMethodError
from spectra.linalg.operators.basic import Operator
from spectra.runs.layout import ADAPTER_PICKLE, ADAPTER_WEIGHTS
from spectra.runs.snapshots import Snapshot
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.storage.open_files import OpenFiles
from spectra.weights.storage.tensors import TensorStore

# Function of the base weight in float64, O × I, that returns ΔW; one per module, for every method.
UpdateFunction = Callable[[Tensor], Operator]
# The same for a norm or bias: function of the base vector that returns its difference.
VectorFunction = Callable[[Tensor], Tensor]

_MODEL_PREFIX = "base_model.model."
_SHARED_PREFIX = "base_model."
# Copies of frozen weights: of an adapted embedding, and of replaced modules.
_FROZEN = (".base_layer.weight", ".original_module.weight", ".original_module.bias")
# Names of peft's module wrappers in state dicts that peft did not save itself.
_WRAPPER = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")


@dataclass(frozen=True)
class Changes:
    """Parameters that an adapter changes.

    Attributes
    ----------
    matrices
        For each changed matrix, by module name (the base parameter's name without ``.weight``), a function of the base
        weight in float64 that returns ΔW.
    vectors
        The same for norms and biases; a bias is listed by its full parameter name.
    skipped
        Parts of the adapter that spectra does not read, with the reason.
    """

    matrices: Mapping[str, UpdateFunction]
    vectors: Mapping[str, VectorFunction] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reader of adapters of one ``peft_type``.

    Attributes
    ----------
    parts
        Names of the tensors that the method stores for each module, without ``.weight`` and the adapter's name:
        ``("lora_A", "lora_B", …)``.
    changes
        Function of the adapter, the offset that initialization subtracted from the base (None if there is none) and the
        base that returns the changes.
    shared
        Names of tensors shared by all modules, such as ``vera_A``; of ``frod_V.self_attn_q_proj``, the first component.
    """

    parts: tuple[str, ...]
    changes: Callable[["Adapter", InitialOffset | None, TensorStore], Changes]
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adapter:
    """An adapter directory; tensors are read on demand.

    Attributes
    ----------
    path
        The directory.
    config
        ``adapter_config.json``.
    parts
        For each module, the stored key of each part: ``{"model.layers.0.self_attn.q_proj": {"lora_A": key, …}}``.
        A part that is a list has its index in the name: ``adamss_A.0``.
    shared
        Keys of tensors shared by all modules, by name.
    full
        Keys of tensors that replace a base parameter (``modules_to_save``, trained biases), by parameter name.
    store
        The tensors by key.
    """

    path: Path
    config: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, str]]
    shared: Mapping[str, str]
    full: Mapping[str, str]
    store: Mapping[str, Tensor]

    @classmethod
    def open(cls, snapshot: Snapshot, reader: Reader, open_files: OpenFiles | None = None) -> "Adapter":
        """Open an adapter and group its tensors by the names in the method's reader.

        Parameters
        ----------
        snapshot
            The adapter's directory with its configuration.
        reader
            Reader of its type.
        open_files
            Already open files.

        Raises
        ------
        CorruptFileError
            If the configuration or the tensors cannot be read, or there is no tensor.
        """
        path, config = snapshot.path, snapshot.config
        store = _open_tensors(path, open_files)
        if not store:
            raise CorruptFileError(
                "holds no tensor",
                where=path,
                hint="save the adapter again (old versions save an empty one under ZeRO-3)",
            )
        parts: dict[str, dict[str, str]] = defaultdict(dict)
        shared: dict[str, str] = {}
        full: dict[str, str] = {}
        pattern = _pattern(reader)
        for key in store:
            name = key.removeprefix(_MODEL_PREFIX)
            match = pattern.fullmatch(name)
            if (stem := _stem(key.removeprefix(_SHARED_PREFIX))).partition(".")[0] in reader.shared:
                shared[stem] = key
            elif match is not None:
                parts[match["module"]][match["part"] + (match["index"] or "")] = key
            elif not name.endswith(_FROZEN):
                full[_WRAPPER.sub("", name)] = key
        return cls(path, config, dict(parts), shared, full, store)

    @property
    def num_parameters(self) -> int:
        """Number of parameters in the adapter."""
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
            raise CorruptFileError(f"has no {part} for {module}", where=self.path, hint="save the adapter again")
        return self.store[key]


# Function of the adapter, a module's name and its base weight in float64, O × I, that returns ΔW.
Formula = Callable[[Adapter, str, Tensor], Operator]


def per_module(formula: Formula, *refused: str) -> Callable[[Adapter, InitialOffset | None, TensorStore], Changes]:
    """Return a reader's ``changes`` for a method with one matrix per module and one formula for all.

    Parameters
    ----------
    formula
        Function of the adapter, a module's name and its base weight in float64 that returns ΔW.
    refused
        Options that the formula does not support; an adapter that sets one is refused.
    """

    def changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
        refuse_options(adapter, *refused)
        return Changes(updates_by(formula, adapter))

    return changes


def updates_by(formula: Formula, adapter: Adapter, modules: Iterable[str] | None = None) -> dict[str, UpdateFunction]:
    """Return the update of each module by one formula; ``modules`` defaults to all modules of the adapter.

    A formula with further arguments takes them first: ``updates_by(partial(formula, base), adapter)``. One that applies
    to convolutions too is wrapped in :func:`.oriented`.
    """
    return {module: partial(formula, adapter, module) for module in (adapter.parts if modules is None else modules)}


def refuse_options(adapter: Adapter, *options: str) -> None:
    """Refuse an adapter that sets one of these options.

    Raises
    ------
    UnsupportedMethodError
        Naming the first option that is set.
    """
    for option in options:
        if adapter.config.get(option) not in (None, False, 0, "none", [], {}):
            raise UnsupportedMethodError(
                f"the adapter sets {option}, which spectra does not read exactly yet",
                where=adapter.path,
                hint="merge it in float32 and analyze the full checkpoint with --base",
            )


def require_shape(adapter: Adapter, module: str, weight: Tensor, shape: tuple[int | None, int | None]) -> None:
    """Check that a module's base weight has the shape of the adapter's update; None matches any size.

    Raises
    ------
    CorruptFileError
        If the shapes differ.
    """
    if any(size not in (None, actual) for size, actual in zip(shape, weight.shape, strict=True)):
        expected = " × ".join("any" if size is None else str(size) for size in shape)
        raise CorruptFileError(
            f"{module}: the update is {expected}, the base weight {weight.shape[0]} × {weight.shape[1]}",
            where=adapter.path,
            hint="pass the base model that the adapter was trained on with --base",
        )


def _pattern(reader: Reader) -> re.Pattern[str]:
    """Match `lora_A.weight`, older `lora_A.default.weight`, `lora_magnitude_vector`, `adamss_A.0`."""
    parts = "|".join(sorted(map(re.escape, reader.parts), key=len, reverse=True))
    return re.compile(rf"(?P<module>.+?)\.(?P<part>{parts})(?:\.default)?(?P<index>\.\d+)?(?:\.weight)?")


def _stem(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".default")


def _open_tensors(path: Path, open_files: OpenFiles | None) -> Mapping[str, Tensor]:
    if (path / ADAPTER_WEIGHTS).exists():
        return TensorStore.open_file(path / ADAPTER_WEIGHTS, open_files)
    try:
        tensors = torch.load(path / ADAPTER_PICKLE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CorruptFileError(
            f"cannot be read as tensors only ({type(error).__name__})",
            where=path / ADAPTER_PICKLE,
            hint="save the adapter as safetensors",
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CorruptFileError("is not a dictionary of tensors", where=path / ADAPTER_PICKLE, hint="save it again")
    return tensors
