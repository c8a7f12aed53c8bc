"""One unit of work: a module of the base with all snapshots that need it.

The base matrix is read, checked and decomposed once for all snapshots. Tasks are plain data, so that processes and
clusters can run them.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectra.analysis.pipeline.basis_cache import BasisCache
from spectra.analysis.tables.columns import Columns
from spectra.analysis.tables.matrix import MatrixWork, Rows, Work, merge
from spectra.analysis.tables.spectral import kind_of, layer_of, measure_vector
from spectra.errors import BaseModelError
from spectra.linalg.measures.leading import is_factored
from spectra.linalg.operators.basic import Operator
from spectra.runs.directory import Snapshot
from spectra.weights.readers.offset import Start
from spectra.weights.storage.tensors import TensorStore, digest
from spectra.weights.updates import Updates, open_updates, parameter_name

# Dtypes whose values are the weights themselves; float8 and integers need a scale that is stored elsewhere.
_PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


# From the base weight to the update of one module at one snapshot.
UpdateFunction = Callable[[Tensor], Operator]


@dataclass(frozen=True)
class ModuleTask:
    """What to measure.

    Attributes
    ----------
    module
        Name of the base parameter without ``.weight``.
    base
        Directory of the base model.
    snapshots
        Every snapshot that changes this module, by step.
    work
        The missing rows of the module.
    start
        What the initialization subtracted from the base, for methods that do so.
    method
        Name of the method according to the run; None takes it from the snapshot.
    expected_digest
        Required digest of the base parameter; None if the run did not record it.
    cache
        Directory of decomposed bases; None disables the cache.
    device
        Device to compute on.
    size
        Number of entries of the matrix, for ordering.
    """

    module: str
    base: Path
    snapshots: tuple[Snapshot, ...]
    work: Work
    start: Start | None
    method: str | None
    expected_digest: str | None
    cache: Path | None
    device: str
    size: int


@dataclass(frozen=True)
class ModuleResult:
    """Rows of each table, and whether the decomposition of the base matrix was reused (None: not needed)."""

    module: str
    rows: Rows
    basis_reused: bool | None


def run_task(task: ModuleTask) -> ModuleResult:
    """Measure one module at every snapshot of the task.

    Raises
    ------
    BaseModelError
        If the base parameter is not the one that the run was trained on.
    """
    store = _base(task.base)
    parameter = parameter_name(task.module, store.files)
    if parameter is None:  # the plan lists only parameters that exist
        raise BaseModelError(f"has no parameter {task.module}", where=task.base)
    stored = store[parameter]
    found = digest(stored)
    # The manifest contains digests of the stored tensors.
    _check_identity(task, parameter, digest(store.as_stored()[parameter]) if parameter in store.transposed else found)
    _check_numbers(task, parameter, stored)
    weight = stored.to(task.device, torch.float64)
    if weight.ndim > 2:  # treat a convolution as the matrix of its flattened kernels
        weight = weight.flatten(1)
    if weight.ndim != 2:
        return ModuleResult(task.module, _vector_rows(task, weight), None)
    basis, reused = BasisCache(task.cache).get(found, weight)
    return ModuleResult(task.module, _matrix_rows(task, MatrixWork(weight, basis)), reused)


def _matrix_rows(task: ModuleTask, matrix: MatrixWork) -> Rows:
    rows: Rows = {}
    opened = {snapshot.step: _updates(snapshot, task.base, task.start) for snapshot in task.snapshots}
    for batch in _batches(
        {step: opened[step].matrices[task.module] for step in sorted(task.work.basic)}, matrix.weight
    ):
        half = [opened[step].half.get(task.module) for step in batch]
        for step, found in zip(batch, matrix.basic(list(batch.values()), half), strict=True):
            merge(rows, found, _key(task, step, opened[step].method))
    for step in sorted(task.work.deep | task.work.nulls):
        update = opened[step].matrices[task.module](matrix.weight)
        seed = zlib.crc32(f"{task.module}@{step}".encode())
        merge(rows, matrix.deep(update, step, task.work, seed=seed), _key(task, step, opened[step].method))
    if task.work.trajectory:
        found_rows = matrix.trajectory({step: updates.matrices[task.module] for step, updates in opened.items()})
        merge(rows, {"trajectory": Columns.of(found_rows)}, {"module": task.module})
    return rows


def _batches(functions: Mapping[int, UpdateFunction], weight: Tensor) -> Iterator[dict[int, Operator]]:
    """Yield updates by step: those in factors together, each of full rank alone, so that one is held at a time."""
    factored: dict[int, Operator] = {}
    for step, function in functions.items():
        update = function(weight)
        if is_factored(update):
            factored[step] = update
        else:
            yield {step: update}
    yield factored


def _vector_rows(task: ModuleTask, weight: Tensor) -> Rows:
    rows: Rows = {}
    for step in sorted(task.work.basic):
        updates = _updates(_snapshot(task, step), task.base, task.start)
        measured = measure_vector(weight, updates.vectors[task.module](weight))
        merge(rows, {"modules": measured.modules}, _key(task, step, updates.method))
    return rows


def _snapshot(task: ModuleTask, step: int) -> Snapshot:
    return next(snapshot for snapshot in task.snapshots if snapshot.step == step)


def _key(task: ModuleTask, step: int, method: str) -> dict[str, Any]:
    """Return the columns that identify a row; each table keeps those that it has."""
    identity = {"layer": layer_of(task.module), "kind": kind_of(task.module), "method": task.method or method}
    return {"step": step, "module": task.module, **identity}


def _check_identity(task: ModuleTask, parameter: str, found: str) -> None:
    if task.expected_digest is not None and task.expected_digest != found:
        raise BaseModelError(
            f"{parameter} is not the tensor that this run was trained on (digest {found[:12]}…, the manifest has "
            f"{task.expected_digest[:12]}…)",
            where=task.base,
            hint="pass the base model of this run with --base",
        )


@cache
def _base(directory: Path) -> TensorStore:
    return TensorStore.open_model(directory)


@cache
def _updates(snapshot: Snapshot, base: Path, start: Start | None) -> Updates:
    return open_updates(snapshot, _base(base), start)


def _check_numbers(task: ModuleTask, parameter: str, stored: Tensor) -> None:
    if stored.dtype not in _PLAIN:
        raise BaseModelError(
            f"{parameter} is stored as {stored.dtype}, which is quantized or scaled",
            where=task.base,
            hint="pass the full-precision base model with --base",
        )
    if not bool(torch.isfinite(stored).all()):
        raise BaseModelError(
            f"{parameter} contains NaN or infinity", where=task.base, hint="download the base model again"
        )


def forget() -> None:
    """Close the files that this process keeps open between tasks; they may have changed."""
    _base.cache_clear()
    _updates.cache_clear()
