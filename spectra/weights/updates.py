"""Updates of one snapshot: the changed modules and their ΔW as operators, read on demand."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from spectra.errors import BaseModelError, UnsupportedMethodError
from spectra.linalg.operators.basic import Dense, Operator
from spectra.runs.directory import Snapshot
from spectra.runs.layout import MODEL_UPDATE
from spectra.weights.facts import BY_TYPE, adapter_label
from spectra.weights.readers.adapter import Adapter, Changes, UpdateFunction, VectorFunction
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.readers.oriented import require_orientation
from spectra.weights.readers.registry import READERS
from spectra.weights.storage.bit_differences import DifferenceStore
from spectra.weights.storage.quantized import require_full_precision
from spectra.weights.storage.tensors import TensorStore

# The weights of a full snapshot, stored directly or as differences from the base.
FullWeights = TensorStore | DifferenceStore

# First component of names, which a checkpoint saved without its head lacks.
_TRUNKS = ("model", "transformer")
# Names of output heads and of the input embeddings to which they may be tied.
_HEADS = ("lm_head", "embed_out")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


@dataclass(frozen=True)
class Updates:
    """The updates of one snapshot.

    Attributes
    ----------
    method
        ``lora``, ``dora``, ``pissa``, ``full`` …
    matrices
        For each changed matrix, by module name (the base parameter's name without ``.weight``), a function of the base
        weight in float64 that returns ΔW.
    vectors
        The same for norms and biases: functions of the base vector that return its difference.
    skipped
        Parameters in the snapshot that spectra does not analyze, with the reason.
    num_parameters
        Number of parameters in the snapshot.
    half_precision
        Modules whose W + ΔW the snapshot stores rounded to 16 bits, with that dtype.
    reshaped
        Skipped modules whose shape in the base differs, such as the embeddings of an extended vocabulary.
    """

    method: str
    matrices: Mapping[str, UpdateFunction]
    vectors: Mapping[str, VectorFunction]
    skipped: Mapping[str, str]
    num_parameters: int
    half_precision: Mapping[str, torch.dtype] = field(default_factory=dict)
    reshaped: frozenset[str] = frozenset()

    def require_shapes(self) -> None:
        """Refuse to apply updates to the base if a tensor would be lost because its shape in the base differs.

        Raises
        ------
        UnsupportedMethodError
            Naming the first one.
        """
        if not self.reshaped:
            return
        module = min(self.reshaped)
        raise UnsupportedMethodError(
            f"{module} {self.skipped[module]}, so it cannot be applied to the base",
            hint="save the trained model itself with save_pretrained; `spectra analyze` reads all other modules",
        )


@dataclass(frozen=True)
class _Replacements:
    """Tensors that replace base parameters, by type."""

    matrices: Mapping[str, UpdateFunction]
    vectors: Mapping[str, VectorFunction]
    skipped: Mapping[str, str]
    reshaped: frozenset[str]


def parameter_name(module: str, base: Mapping[str, object]) -> str | None:
    """Return the base parameter of a module name, or None: ``x`` means ``x.weight``, a bias means itself.

    A checkpoint stores tied embeddings once, under the input's name; its output head is that matrix. A checkpoint saved
    without its head, as GPT-2 is published, lacks the first component of every name, or has it where the adapter lacks
    it.
    """
    _, _, rest = module.partition(".")
    spellings = [module, *([rest] if rest else []), *(f"{trunk}.{module}" for trunk in _TRUNKS)]
    found = next((name for spelling in spellings for name in (f"{spelling}.weight", spelling) if name in base), None)
    if found is None and module in _HEADS:
        return next((name for name in base if name.endswith(_EMBEDDINGS)), None)
    return found


def module_name(parameter: str) -> str:
    """Return the module name of a base parameter: its name without ``.weight``."""
    return parameter.removesuffix(".weight")


def open_updates(snapshot: Snapshot, base: TensorStore, offset: InitialOffset | None) -> Updates:
    """Open the updates of one snapshot. Reads headers only.

    Parameters
    ----------
    snapshot
        An adapter or a full checkpoint.
    base
        The original base weights.
    offset
        Offset that initialization subtracted from the base, for methods that move it:
        ``spectra.weights.initialization.find.find_initial_offset``.

    Raises
    ------
    BaseModelError
        If nothing in the snapshot matches the base, or the base is quantized.
    UnsupportedMethodError
        If the adapter's method cannot be read exactly.
    """
    require_full_precision(base)
    updates = _open_adapter(snapshot, base, offset) if snapshot.kind == "adapter" else _open_full(snapshot, base)
    if not updates.matrices and not updates.vectors:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(updates.skipped.items())[:1])
        raise BaseModelError(
            f"nothing in it matches the base {base.where}" + (f" ({reasons})" if reasons else ""),
            where=snapshot.path,
            hint="give the base that it was trained on with --base",
        )
    return updates


def _open_adapter(snapshot: Snapshot, base: TensorStore, offset: InitialOffset | None) -> Updates:
    path, kind = snapshot.path, str(snapshot.config.get("peft_type"))
    if kind not in READERS and kind in BY_TYPE:
        reason = BY_TYPE[kind].not_read
        raise UnsupportedMethodError(f"{kind} leaves no weight update to analyze: {reason}", where=path)
    if kind not in READERS:
        raise UnsupportedMethodError(
            f"adapters of type {kind} are not read exactly yet",
            where=path,
            hint=f"supported: {', '.join(sorted(READERS))}; or merge it in float32 and analyze the full checkpoint",
        )
    reader = READERS[kind]
    adapter = Adapter.open(snapshot, reader, base.open_files)
    found = read_changes(adapter, offset, base)
    absent = {
        module: "the base has no such parameter"
        for module in [*found.matrices, *found.vectors]
        if parameter_name(module, base.files) is None
    }
    full = _replacements(adapter.full, adapter.store, base)
    return Updates(
        method=adapter_label(adapter.config),
        matrices={m: function for m, function in found.matrices.items() if m not in absent} | dict(full.matrices),
        vectors={m: function for m, function in found.vectors.items() if m not in absent} | dict(full.vectors),
        skipped={**found.skipped, **absent, **full.skipped},
        num_parameters=adapter.num_parameters,
        reshaped=full.reshaped,
    )


def read_changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    """Return the changes of an adapter of a type in ``READERS``.

    Raises
    ------
    UnsupportedMethodError
        If it cannot be read exactly on this base.
    MissingInitialError
        If the method moves the base and the offset is not known.
    """
    require_orientation(adapter, base)
    return READERS[str(adapter.config.get("peft_type"))].changes(adapter, offset, base)


def _open_full(snapshot: Snapshot, base: TensorStore) -> Updates:
    store = open_full_weights(snapshot.path, base)
    found = _replacements({name: name for name in store}, store, base)
    half_precision = {module_name(name): dtype for name, dtype in store.half_precision.items()}
    num_parameters = sum(map(prod, store.shapes.values()))
    return Updates("full", found.matrices, found.vectors, found.skipped, num_parameters, half_precision, found.reshaped)


def open_full_weights(directory: Path, base: TensorStore) -> FullWeights:
    """Open the weights of a full snapshot or model, stored directly or as differences from the base.

    The tensors have the orientation of the model's code: compare them with ``base.as_stored()``.
    """
    if (directory / MODEL_UPDATE).exists():
        return DifferenceStore.open_snapshot(directory, base)
    return TensorStore.open_model(directory, base.open_files).as_stored()


def _replacements(keys: Mapping[str, str], store: Mapping[str, Tensor], base: TensorStore) -> _Replacements:
    """Sort replaced base parameters (parameter name → key in ``store``) into matrices, vectors and skipped ones."""
    matrices: dict[str, UpdateFunction] = {}
    vectors: dict[str, VectorFunction] = {}
    skipped: dict[str, str] = {}
    reshaped: set[str] = set()
    for parameter, key in keys.items():
        module = module_name(parameter)
        name = parameter_name(module, base.files) or parameter
        shape, transposed = base.shapes.get(name), name in base.transposed
        if shape is None:
            skipped[module] = "the base has no such parameter"
        elif _shape(store, key) != (stored := shape[::-1] if transposed else shape):
            skipped[module] = f"has shape {_shape(store, key)}, in the base {stored}"
            reshaped.add(module)
        elif len(shape) == 2:
            matrices[module] = partial(_matrix_change, store, key, transposed)
        elif len(shape) == 1:
            vectors[module] = partial(_change, store, key)
        else:
            skipped[module] = f"has {len(shape)} dimensions; only matrices and vectors are analyzed"
    return _Replacements(matrices, vectors, skipped, frozenset(reshaped))


def _shape(store: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    shapes: Mapping[str, tuple[int, ...]] | None = getattr(store, "shapes", None)  # a pickled adapter has a plain dict
    return tuple(store[key].shape) if shapes is None else shapes[key]


def _change(store: Mapping[str, Tensor], key: str, weight: Tensor) -> Tensor:
    """Return new − old in float64, where the difference of two stored numbers is rounded at most once."""
    return store[key].to(weight) - weight


def _matrix_change(store: Mapping[str, Tensor], key: str, transposed: bool, weight: Tensor) -> Operator:
    """Return ΔW of an O × I weight; ``transposed`` means that the model stores it I × O."""
    change = _change(store, key, weight.T if transposed else weight)
    return Dense(change.T if transposed else change)
