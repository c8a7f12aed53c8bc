"""All rows of one matrix: basic rows per snapshot, expensive rows of some, and rows that need all snapshots."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from spectra.analysis.tables.coordinates import BaseCoordinates
from spectra.analysis.tables.drift import drift_row
from spectra.analysis.tables.null_draws import null_rows
from spectra.analysis.tables.spectral import Row, measure_matrix
from spectra.analysis.tables.trajectory import trajectory_rows
from spectra.linalg.decompositions.basis import Basis
from spectra.linalg.measures.rounding import rounding_norm
from spectra.linalg.operators.basic import Operator

Rows = dict[str, list[Row]]


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

    def rows(self, update: Operator, step: int, work: Work, *, half: torch.dtype | None, seed: int) -> Rows:
        """Return the rows of one snapshot.

        Parameters
        ----------
        update
            Its ΔW.
        step
            Its step.
        work
            What is missing.
        half
            Dtype of a snapshot that stores W + ΔW rounded to 16 bits, None for any other.
        seed
            Seed of the samples, different for every matrix: the mean over matrices assumes independent samples.
        """
        rows: Rows = {}
        if step in work.basic:
            measured = measure_matrix(self.weight, self.basis, update)
            rounding = {"rounding_fro": 0.0 if half is None else rounding_norm(self.weight, half)}
            merge(rows, vars(measured), {})
            rows["modules"] = [row | rounding for row in rows["modules"]]
        if not update.is_finite():
            return rows
        if step in work.deep:
            rows["drift"] = [drift_row(self.weight, self.basis, update)]
            rows["coordinates"] = [self.coordinates.row(update, norm=update.frobenius())]
        if step in work.nulls:
            budget = work.null_budget
            rows["nulls"] = null_rows(self.weight, self.basis, update, self.coordinates, seed=seed, budget=budget)
        return rows

    def trajectory(self, functions: Mapping[int, Callable[[Tensor], Operator]]) -> list[Row]:
        """Return the rows of ``trajectory``, one per snapshot."""
        return trajectory_rows({step: partial(function, self.weight) for step, function in functions.items()})

    @cached_property
    def coordinates(self) -> BaseCoordinates:
        """Masks and rounding boundaries of the base."""
        return BaseCoordinates(self.weight, self.basis)


def merge(into: Rows, rows: Mapping[str, list[Row]], key: Mapping[str, Any]) -> None:
    """Add rows of tables to others, each with the columns of ``key``."""
    for table, found in rows.items():
        into.setdefault(table, []).extend({**key, **row} for row in found)
