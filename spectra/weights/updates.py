"""The update of one snapshot: which modules it changes, and ΔW of each as an operator, read when asked for."""

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
from spectra.weights.readers.offset import Start
from spectra.weights.readers.oriented import require_orientation
from spectra.weights.readers.registry import READERS
from spectra.weights.storage.bit_differences import DifferenceStore
from spectra.weights.storage.quantized import require_full_precision
from spectra.weights.storage.tensors import TensorStore

# The weights of a full snapshot, as they are or as differences from the base.
Whole = TensorStore | DifferenceStore

# First part of names, which a checkpoint that was saved without its head lacks.
_TRUNKS = ("model", "transformer")
# Names of output heads, and of the input embeddings that they may be tied to.
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
        For each changed matrix, by module name (the base parameter's name without ``.weight``), the function from the
        base weight in float64 to ΔW.
    vectors
        The same for norms and biases: from the base vector to its difference.
    skipped
        What the snapshot holds and spectra does not analyse, with the reason.
    size
        Numbers in the snapshot.
    half
        Modules whose W + ΔW the snapshot stores rounded to 16 bits, with that dtype.
    reshaped
        Of what is skipped, what has another shape in the base, such as the embeddings of a vocabulary that grew.
    """

    method: str
    matrices: Mapping[str, UpdateFunction]
    vectors: Mapping[str, VectorFunction]
    skipped: Mapping[str, str]
    size: int
    half: Mapping[str, torch.dtype] = field(default_factory=dict)
    reshaped: frozenset[str] = frozenset()

    def require_shapes(self) -> None:
        """Refuse to be put on the base where that would lose a tensor, which the base has in another shape.

        Raises
        ------
        UnsupportedMethodError
            Naming the first one.
        """
        if not self.reshaped:
            return
        module = min(self.reshaped)
        raise UnsupportedMethodError(
            f"{module} {self.skipped[module]}, so it cannot be put on it",
            hint="save the trained model itself with save_pretrained; `spectra analyze` reads all other modules",
        )


@dataclass(frozen=True)
class _Replaced:
    """Tensors that replace base parameters, sorted."""

    matrices: Mapping[str, UpdateFunction]
    vectors: Mapping[str, VectorFunction]
    skipped: Mapping[str, str]
    reshaped: frozenset[str]


def parameter_name(module: str, base: Mapping[str, object]) -> str | None:
    """Return the base parameter that a module name stands for, or None: ``x`` is ``x.weight``, a bias is itself.

    A checkpoint stores tied embeddings once, under the input's name: its output head is that matrix. One that was saved
    without its head, as GPT-2 is published, lacks the first part of every name, or has it where the adapter lacks it.
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


def open_updates(snapshot: Snapshot, base: TensorStore, start: Start | None) -> Updates:
    """Open the updates of one snapshot. Reads headers only.

    Parameters
    ----------
    snapshot
        An adapter or a full checkpoint.
    base
        The original base weights.
    start
        What initialisation took out of the base, for methods that move it:
        ``spectra.weights.initialization.find.find_start``.

    Raises
    ------
    BaseModelError
        If nothing in the snapshot matches the base, or the base is quantised.
    UnsupportedMethodError
        If the adapter's method cannot be read exactly.
    """
    require_full_precision(base)
    updates = _open_adapter(snapshot, base, start) if snapshot.kind == "adapter" else _open_full(snapshot, base)
    if not updates.matrices and not updates.vectors:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(updates.skipped.items())[:1])
        raise BaseModelError(
            f"nothing in it matches the base {base.where}" + (f" ({reasons})" if reasons else ""),
            where=snapshot.path,
            hint="give the base that it was trained on with --base",
        )
    return updates


def _open_adapter(snapshot: Snapshot, base: TensorStore, start: Start | None) -> Updates:
    path, kind = snapshot.path, str(snapshot.config.get("peft_type"))
    if kind not in READERS and kind in BY_TYPE:
        reason = BY_TYPE[kind].not_read
        raise UnsupportedMethodError(f"{kind} leaves no weight update to analyse: {reason}", where=path)
    if kind not in READERS:
        raise UnsupportedMethodError(
            f"adapters of type {kind} are not read exactly yet",
            where=path,
            hint=f"supported: {', '.join(sorted(READERS))}; or merge it in float32 and analyse the full checkpoint",
        )
    reader = READERS[kind]
    adapter = Adapter.open(snapshot, reader, base.open_files)
    found = read_changes(adapter, start, base)
    absent = {
        module: "the base has no such parameter"
        for module in [*found.matrices, *found.vectors]
        if parameter_name(module, base.files) is None
    }
    whole = _replaced(adapter.whole, adapter.store, base)
    return Updates(
        method=adapter_label(adapter.config),
        matrices={m: function for m, function in found.matrices.items() if m not in absent} | dict(whole.matrices),
        vectors={m: function for m, function in found.vectors.items() if m not in absent} | dict(whole.vectors),
        skipped={**found.skipped, **absent, **whole.skipped},
        size=adapter.size,
        reshaped=whole.reshaped,
    )


def read_changes(adapter: Adapter, start: Start | None, base: TensorStore) -> Changes:
    """Return what an adapter of a type in ``READERS`` changes.

    Raises
    ------
    UnsupportedMethodError
        If it cannot be read exactly on this base.
    MissingInitialError
        If the method moves the base and its start is not known.
    """
    require_orientation(adapter, base)
    return READERS[str(adapter.config.get("peft_type"))].changes(adapter, start, base)


def _open_full(snapshot: Snapshot, base: TensorStore) -> Updates:
    store = open_whole(snapshot.path, base)
    found = _replaced({name: name for name in store}, store, base)
    half = {module_name(name): dtype for name, dtype in store.half_precision.items()}
    size = sum(map(prod, store.shapes.values()))
    return Updates("full", found.matrices, found.vectors, found.skipped, size, half, found.reshaped)


def open_whole(directory: Path, base: TensorStore) -> Whole:
    """Open the weights of a full snapshot or model, stored as they are or as differences from the base.

    The tensors have the orientation in which the model's code has them: compare them with ``base.as_stored()``.
    """
    if (directory / MODEL_UPDATE).exists():
        return DifferenceStore.open_snapshot(directory, base)
    return TensorStore.open_model(directory, base.open_files).as_stored()


def _replaced(keys: Mapping[str, str], store: Mapping[str, Tensor], base: TensorStore) -> _Replaced:
    """Sort tensors that replace base parameters (parameter name → key in ``store``) into matrices, vectors, skips."""
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
            skipped[module] = f"has {len(shape)} dimensions; matrices and vectors are analysed"
    return _Replaced(matrices, vectors, skipped, frozenset(reshaped))


def _shape(store: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    shapes: Mapping[str, tuple[int, ...]] | None = getattr(store, "shapes", None)  # a pickled adapter's is a plain dict
    return tuple(store[key].shape) if shapes is None else shapes[key]


def _change(store: Mapping[str, Tensor], key: str, weight: Tensor) -> Tensor:
    """Return new − old in float64, where the difference of two stored numbers has one rounding at most."""
    return store[key].to(weight) - weight


def _matrix_change(store: Mapping[str, Tensor], key: str, transposed: bool, weight: Tensor) -> Operator:
    """Return ΔW of an O × I weight; ``transposed`` says that the model stores it I × O."""
    change = _change(store, key, weight.T if transposed else weight)
    return Dense(change.T if transposed else change)
