"""The Python interface for notebooks: open a run, read its updates and bases, analyze it.

>>> import spectra
>>> run = spectra.open("outputs/my-trl-run")  # doctest: +SKIP
>>> dw = run.update("model.layers.3.self_attn.q_proj", step=64)  # doctest: +SKIP
"""

from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float64
from torch import Tensor

from spectra.analysis.analyze import Options, analyze
from spectra.analysis.pipeline.basis_cache import BasisCache
from spectra.config import cache_dir
from spectra.errors import UsageError
from spectra.linalg.operators.basic import Operator
from spectra.runs.directory import RunDirectory
from spectra.runs.tables import Tables
from spectra.weights.opened_run import OpenedRun
from spectra.weights.storage.tensors import digest

if TYPE_CHECKING:
    import os


@dataclass(frozen=True)
class SingularBasis:
    """Singular values and vectors of a base matrix, W = left · diag(sigma) · rightᵀ.

    Attributes
    ----------
    sigma
        Q singular values, descending, float64.
    left
        Left singular vectors, O × Q.
    right
        Right singular vectors, I × Q.
    """

    sigma: Float64[Tensor, " q"]
    left: Float64[Tensor, "o q"]
    right: Float64[Tensor, "i q"]


class Run:
    """An opened run directory.

    Parameters
    ----------
    path
        A run directory (of spectra, the HF Trainer or TRL), an adapter, or a full checkpoint.
    base
        Base model to use instead of the one that the run names.
    """

    def __init__(self, path: Path, base: str | None = None) -> None:
        self._opened = OpenedRun.open(path, base)

    @property
    def directory(self) -> RunDirectory:
        """The directory as recognized."""
        return self._opened.run

    @property
    def path(self) -> Path:
        """Path of the run directory."""
        return self.directory.path

    @property
    def steps(self) -> list[int]:
        """Steps that have a snapshot, ascending."""
        return [snapshot.step for snapshot in self.directory.snapshots]

    @property
    def method(self) -> str:
        """What the run trains."""
        return self._opened.method

    @property
    def modules(self) -> list[str]:
        """Names of the changed matrices and vectors, at the last snapshot."""
        updates = self._opened.updates(self._opened.newest.step)
        return sorted([*updates.matrices, *updates.vectors])

    def update(self, module: str, step: int | None = None) -> Operator:
        """Return ΔW of a matrix as an operator: ``.shape``, ``@ x``, ``.svdvals()``, ``.dense()``.

        Parameters
        ----------
        module
            Name of the base parameter without ``.weight``.
        step
            Step of the snapshot; None is the last.

        Raises
        ------
        UsageError
            If there is no such step, or the snapshot does not change that matrix.
        """
        updates = self._opened.updates(step)
        if module not in updates.matrices:
            some = next(iter(sorted(updates.matrices)), "none")
            raise UsageError(
                f"step {self._opened.snapshot(step).step} does not change a matrix named {module!r}",
                hint=f"for example, it changes {some}",
            )
        return updates.matrices[module](self.weight(module))

    def weight(self, module: str) -> Tensor:
        """Return a base parameter in float64: O × I for a matrix.

        Raises
        ------
        UsageError
            If the base has no such parameter.
        """
        return self._opened.weight(module)

    def basis(self, module: str) -> SingularBasis:
        """Return the singular basis of a base matrix, from the cache if it is there."""
        weight = self.weight(module)
        stored = self._opened.base[self._opened.parameter(module)]
        basis, _ = BasisCache(cache_dir() / "bases").get(digest(stored), weight)
        rows, columns = (torch.eye(size, dtype=torch.float64) for size in weight.shape)
        return SingularBasis(basis.sigma, basis.left(weight, rows).T, basis.right(weight, columns).T)

    def analyze(self, options: Options | None = None) -> Tables:
        """Return the tables; rows that are not on disk yet are computed."""
        options = options or Options()
        return analyze(self.path, replace(options, base=options.base or self._opened.given_base)).tables

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {self.directory.describe()}, {self.method}, {len(self.modules)} modules)"

    def _repr_html_(self) -> str:
        facts = {
            "run": str(self.path),
            "recognized as": self.directory.describe(),
            "method": self.method,
            "base": str(self._opened.base_dir),
            "modules": str(len(self.modules)),
            "verdict": self._verdict(),
        }
        rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in facts.items())
        return f"<table>{rows}</table>"

    def _verdict(self) -> str:
        from spectra.runs.atomic import read_json

        where = self.directory.analysis.verdict
        return str(read_json(where)["summary"]) if where.exists() else "not analyzed yet: call run.analyze()"


def open(path: "str | os.PathLike[str]", base: str | None = None) -> Run:
    """Open a run directory.

    Parameters
    ----------
    path
        A run directory (of spectra, the HF Trainer or TRL), an adapter, or a full checkpoint.
    base
        Base model to use instead of the one that the run names: a directory or a Hub id.

    Raises
    ------
    SpectraError
        If ``path`` contains nothing that spectra recognizes.
    """
    return Run(Path(path), base)
