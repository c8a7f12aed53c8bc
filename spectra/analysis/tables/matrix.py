"""All rows of one matrix: basic rows per snapshot, expensive rows of some, and rows that need all snapshots."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from spectra.analysis.tables.columns import Columns, Row
from spectra.analysis.tables.coordinates import BaseCoordinates
from spectra.analysis.tables.drift import drift_row
from spectra.analysis.tables.null_draws import null_rows
from spectra.analysis.tables.spectral import measure_snapshots
from spectra.analysis.tables.trajectory import trajectory_rows
from spectra.linalg.decompositions.basis import Basis
from spectra.linalg.measures.rounding import rounding_norm
from spectra.linalg.operators.basic import Operator

# For each table, the rows of one module at one snapshot after the other.
Rows = dict[str, list[Columns]]


@dataclass(frozen=True)
class Work:
    """The missing rows of one module.

    Attributes
    ----------
    basic
        Missing steps of the tables that every snapshot has.
    deep
        Steps of ``drift`` and ``coordinates``.
    nulls
        Steps of ``nulls``.
    trajectory
        Whether ``trajectory``, over all snapshots, is missing.
    null_budget
        Operations that sampling ``nulls`` may cost at one step.
    """

    basic: frozenset[int] = frozenset()
    deep: frozenset[int] = frozenset()
    nulls: frozenset[int] = frozenset()
    trajectory: bool = False
    null_budget: float = 0.0

    @property
    def steps(self) -> frozenset[int]:
        """Every step that needs its update."""
        return self.basic | self.deep | self.nulls

    def __bool__(self) -> bool:
        return bool(self.steps) or self.trajectory


@dataclass(frozen=True)
class MatrixWork:
    """One base matrix, with what is computed once for all of its snapshots.

    Attributes
    ----------
    weight
        W in float64, O × I.
    basis
        Its singular basis.
    """

    weight: Float64[Tensor, "o i"]
    basis: Basis

    def basic(self, updates: Sequence[Operator], half: Sequence[torch.dtype | None]) -> list[dict[str, Columns]]:
        """Return, for each snapshot, the rows of the tables that every snapshot has.

        Parameters
        ----------
        updates
            ΔW of each.
        half
            Dtype of a snapshot that stores W + ΔW rounded to 16 bits, None for any other.
        """
        found = []
        for measured, dtype in zip(measure_snapshots(self.weight, self.basis, updates), half, strict=True):
            rounding = 0.0 if dtype is None else rounding_norm(self.weight, dtype)
            found.append({**vars(measured), "modules": measured.modules.keyed({"rounding_fro": rounding})})
        return found

    def deep(self, update: Operator, step: int, work: Work, *, seed: int) -> dict[str, Columns]:
        """Return the rows of one snapshot in the tables that only chosen snapshots have.

        Parameters
        ----------
        update
            Its ΔW.
        step
            Its step.
        work
            What is missing.
        seed
            Seed of the samples, different for every matrix: the mean over matrices assumes independent samples.
        """
        rows: dict[str, list[Row]] = {}
        if not (step in work.deep | work.nulls and update.is_finite()):
            return {}
        if step in work.deep:
            rows["drift"] = [drift_row(self.weight, self.basis, update)]
            rows["coordinates"] = [self.coordinates.row(update, norm=update.frobenius())]
        if step in work.nulls:
            budget = work.null_budget
            rows["nulls"] = null_rows(self.weight, self.basis, update, self.coordinates, seed=seed, budget=budget)
        return {name: Columns.of(found) for name, found in rows.items()}

    def trajectory(self, functions: Mapping[int, Callable[[Tensor], Operator]]) -> list[Row]:
        """Return the rows of ``trajectory``, one per snapshot."""
        return trajectory_rows({step: partial(function, self.weight) for step, function in functions.items()})

    @cached_property
    def coordinates(self) -> BaseCoordinates:
        """Masks and rounding boundaries of the base."""
        return BaseCoordinates(self.weight, self.basis)


def merge(into: Rows, rows: Mapping[str, Columns], key: Mapping[str, Any]) -> None:
    """Add rows of tables to others, each with those columns of ``key`` that its table has."""
    for table, found in rows.items():
        into.setdefault(table, []).append(found.keyed(key))
