"""One unit of work: a module of the base with all snapshots that need it.

The base matrix is read, checked and decomposed once for all snapshots. Tasks are plain data, so that processes and
clusters can run them.
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from spectra.weights.opened_run import OpenedRun
from spectra.weights.readers.adapter import UpdateFunction
from spectra.weights.storage.tensors import digest

# Dtypes whose values are the weights themselves; float8 and integers need a scale that is stored elsewhere.
_PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class ModuleTask:
    """What to measure.

    Attributes
    ----------
    module
        Name of the base parameter without ``.weight``.
    steps
        Every step whose snapshot changes this module, ascending.
    work
        The missing rows of the module.
    expected_digest
        Required digest of the base parameter; None if the run did not record it.
    size
        Number of entries of the matrix, for ordering.
    """

    module: str
    steps: tuple[int, ...]
    work: Work
    expected_digest: str | None
    size: int


@dataclass(frozen=True)
class ModuleResult:
    """Rows of each table, and whether the decomposition of the base matrix was reused (None: not needed)."""

    module: str
    rows: Rows
    basis_reused: bool | None


@dataclass(frozen=True)
class TaskRunner:
    """Runs the tasks of one analysis; each process has one, which keeps the run's files open between tasks.

    Attributes
    ----------
    opened
        The run with its base and initialization.
    method
        Name of the method, for the tables.
    cache
        Directory of decomposed bases; None disables the cache.
    device
        Device to compute on.
    """

    opened: OpenedRun
    method: str
    cache: Path | None
    device: str

    def run(self, task: ModuleTask) -> ModuleResult:
        """Measure one module at every snapshot of the task.

        Raises
        ------
        BaseModelError
            If the base parameter is not the one that the run was trained on.
        """
        stored, found = self._read(task)
        weight = stored.to(self.device, torch.float64)
        if weight.ndim > 2:  # treat a convolution as the matrix of its flattened kernels
            weight = weight.flatten(1)
        if weight.ndim != 2:
            return ModuleResult(task.module, self._vector_rows(task, weight), None)
        basis, reused = BasisCache(self.cache).get(found, weight)
        return ModuleResult(task.module, self._matrix_rows(task, MatrixWork(weight, basis)), reused)

    def _read(self, task: ModuleTask) -> tuple[Tensor, str]:
        """Return the base parameter as it is stored, O × I, and its digest, once it is known to be the run's own."""
        base = self.opened.base
        parameter = self.opened.parameter(task.module)
        stored = base[parameter]
        found = digest(stored)
        # The manifest contains digests of the stored tensors.
        recorded = digest(base.as_stored()[parameter]) if parameter in base.transposed else found
        if task.expected_digest not in (None, recorded):
            raise BaseModelError(
                f"{parameter} is not the tensor that this run was trained on (digest {recorded[:12]}…, the manifest "
                f"has {task.expected_digest[:12]}…)",
                where=self.opened.base_dir,
                hint="pass the base model of this run with --base",
            )
        _check_numbers(parameter, stored, self.opened.base_dir)
        return stored, found

    def _matrix_rows(self, task: ModuleTask, matrix: MatrixWork) -> Rows:
        rows: Rows = {}
        opened = {step: self.opened.updates(step) for step in task.steps}
        functions = {step: updates.matrices[task.module] for step, updates in opened.items()}
        for batch in _batches({step: functions[step] for step in sorted(task.work.basic)}, matrix.weight):
            half = [opened[step].half_precision.get(task.module) for step in batch]
            for step, found in zip(batch, matrix.basic(list(batch.values()), half), strict=True):
                merge(rows, found, self._key(task, step))
        for step in sorted(task.work.deep | task.work.nulls):
            update = functions[step](matrix.weight)
            seed = zlib.crc32(f"{task.module}@{step}".encode())
            merge(rows, matrix.deep(update, step, task.work, seed=seed), self._key(task, step))
        if task.work.trajectory:
            merge(rows, {"trajectory": Columns.of(matrix.trajectory(functions))}, {"module": task.module})
        return rows

    def _vector_rows(self, task: ModuleTask, weight: Tensor) -> Rows:
        rows: Rows = {}
        for step in sorted(task.work.basic):
            measured = measure_vector(weight, self.opened.updates(step).vectors[task.module](weight))
            merge(rows, {"modules": measured.modules}, self._key(task, step))
        return rows

    def _key(self, task: ModuleTask, step: int) -> dict[str, Any]:
        """Return the columns that identify a row; each table keeps those that it has."""
        identity = {"layer": layer_of(task.module), "kind": kind_of(task.module), "method": self.method}
        return {"step": step, "module": task.module, **identity}


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


def _check_numbers(parameter: str, stored: Tensor, where: Path) -> None:
    if stored.dtype not in _PLAIN:
        raise BaseModelError(
            f"{parameter} is stored as {stored.dtype}, which is quantized or scaled",
            where=where,
            hint="pass the full-precision base model with --base",
        )
    if not bool(torch.isfinite(stored).all()):
        raise BaseModelError(f"{parameter} contains NaN or infinity", where=where, hint="download the base model again")
